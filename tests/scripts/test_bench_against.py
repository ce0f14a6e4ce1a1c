"""Two revisions take turns at every measurement, and their numbers are put side by side."""

import json
import subprocess

import pytest

from scripts.bench import __main__ as bench
from scripts.bench import against
from scripts.common.usage import UsageError

FIGURES = """
import time
def _seconds(way):
    start = time.perf_counter(); way(); return time.perf_counter() - start
def _seconds_on_cuda(way):
    return 0.0
def take_turns(ways, rounds):
    return [_seconds(way) for _ in range(rounds) for way in ways]
"""
MAIN = """
import json, sys
from scripts.bench.figures import take_turns
def main(argv):
    flags = dict(zip(argv[::2], argv[1::2]))
    if NAME in flags.get("--fails", ""):
        sys.exit("no such flag")
    def note():
        with open(flags["--log"], "a") as file:
            file.write(NAME)
    seconds = take_turns([note], COUNT)
    rows = [{"what": "   notes", "value": VALUE, "unit": "ms"}, {"what": NAME, "value": 1.0, "unit": "s"}]
    with open(flags["--json"], "w") as file:
        json.dump({"figures": {"part": rows}}, file)
    return 0
"""


@pytest.fixture
def repository(tmp_path):
    """A benchmark that notes when it measures: three times now, and five times, and twice as slow, in HEAD."""
    root = tmp_path / "repository"
    package = root / "scripts" / "bench"
    package.mkdir(parents=True)

    def write(name, count, value):
        values = f"NAME, COUNT, VALUE = {name!r}, {count}, {value}\n"
        (package / "__main__.py").write_text(values + MAIN)

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", root, *author, *words], check=True, capture_output=True, text=True, timeout=600
        ).stdout

    for file, text in {"__init__": "", "bench/__init__": "", "bench/figures": FIGURES}.items():
        (root / "scripts" / f"{file}.py").write_text(text)
    (package / "training.py").write_text("def _run():\n    pass\n")
    write("b", 5, 4.0)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "before")
    write("a", 3, 2.0)
    yield root
    assert git("worktree", "list").count("\n") == 1


def test_two_revisions_take_turns(repository, tmp_path):
    log = tmp_path / "log"
    flags = ["--log", str(log), "--against", "HEAD", "--json=x.json", "--clock", "cpu"]
    pairs = against.compare_with("HEAD", flags, "cpu", repository)
    assert log.read_text() == "abababbb"
    assert [(pair.what, pair.there, pair.here, pair.ratio) for pair in pairs] == [("notes", 4.0, 2.0, 0.5)]


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_side_that_fails_ends_both(repository, tmp_path, side):
    with pytest.raises(UsageError, match=r"(?s)the benchmark of .* ended with exit code 1:.*no such flag"):
        against.compare_with("HEAD", ["--fails", side, "--log", str(tmp_path / "log")], "wall", repository)


def test_an_unknown_revision_is_told(repository):
    with pytest.raises(UsageError, match=r"--against no-such: expected a revision .*no-such"):
        against.compare_with("no-such", [], "wall", repository)


def test_the_command_prints_and_writes_both(monkeypatch, tmp_path, capsys):
    pair = against.Pair("update", 4.0, 2.0, "ms")
    monkeypatch.setattr(against, "compare_with", lambda revision, argv, clock: [pair])
    assert bench.main(["--parts", "update", "--against", "HEAD", "--json", str(tmp_path / "x.json")]) == 0
    shown = capsys.readouterr().out
    assert "4 ms" in shown
    assert "0.50" in shown
    assert json.loads((tmp_path / "x.json").read_text())["pairs"][0]["here"] == 2.0
