"""Shared runs on a hub: a server of the test's own on the loopback address, which the real client talks to."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts import evaluate, share
from scripts.common.usage import UsageError
from scripts.runs import Run, hub
from tests.helpers import exit_code
from tests.run_folders import make_run

COMMIT = 40 * "a"
hub_only = pytest.mark.skipif(
    hub.importlib.util.find_spec("huggingface_hub") is None,
    reason="needs huggingface_hub: pip install -c constraints.txt -e '.[hub]'",
)


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that the client asks for: make a repository, take a commit, give its files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, body, code=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length).decode()
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.answer({"error": "no"}, 401, X_Error_Message="Invalid username or password.")
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{self.server.url}/me/agent", "name": "me/agent"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(text)["files"]]
            rows = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": rows})
        if "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            found = {"commitUrl": f"{self.server.url}/me/agent/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return self.answer(found)
        return self.answer({"warnings": [], "errors": []})

    def do_GET(self):
        files = self.server.files
        if self.path.startswith("/api/models/me/agent"):
            siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
            tree = [{"type": "file", "path": name, "size": len(body), "oid": COMMIT} for name, body in files.items()]
            return self.answer(
                tree if "/tree/" in self.path else {"id": "me/agent", "sha": COMMIT, "siblings": siblings}
            )
        if found := re.fullmatch(r"/me/agent/resolve/[^/]+/(.*?)(\?.*)?", self.path):
            body = files[found[1]]
            return self.answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"')
        return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.files = f"http://127.0.0.1:{server.server_port}", {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": "hf_good",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield server
    server.shutdown()


@hub_only
def test_a_run_goes_to_the_hub_and_opens_from_there(server, capsys):
    assert share.main(["mt10-quick-pcgrad", "--to", "hub:me/agent"]) == 0
    assert "me/agent" in capsys.readouterr().out
    assert server.files["README.md"].startswith(b"---\nlibrary_name: mtrl-surgery")
    assert set(server.files) == {*hub.SHARED, "actor.safetensors", "SHA256SUMS", "README.md"}
    server.files["evil.pkl"] = b"cos\nsystem\n."
    found, here = Run("hub:me/agent").verified(), Run("mt10-quick-pcgrad")
    assert (found.config, found.protocol) == (here.config, here.protocol)
    assert found.agent().steps_per_task == here.config.steps_per_task
    assert not (found.path / "evil.pkl").exists()


@hub_only
def test_a_hub_that_refuses_is_told_in_one_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "README.md").write_text("# agent\n")
    with pytest.raises(UsageError, match=r"the Hub did not take it: .*401") as told:
        hub.push(folder, "me/agent")
    assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="hub:me/none: expected a shared run; the Hub did not give it"):
        Run("hub:me/none")


@hub_only
def test_without_a_token_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    make_run(tmp_path / "run")
    assert exit_code(monkeypatch, share.main, [str(tmp_path / "run"), "--to", "hub:me/agent"]) == 2
    assert "expected a token that may write; found none. Log in with `hf auth login`" in capsys.readouterr().err


@hub_only
def test_a_name_that_no_repository_can_have(monkeypatch, capsys):
    assert exit_code(monkeypatch, evaluate.main, ["hub:a/b/c"]) == 2
    assert "expected hub:USER/NAME" in capsys.readouterr().err


def test_a_missing_package_is_told_with_its_installation(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"expected the package huggingface_hub.*pip install -c constraints.txt -e '\.\[hub\]'"
    ):
        Run("hub:me/agent")
