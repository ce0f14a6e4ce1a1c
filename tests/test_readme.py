"""README and guide keep their word: every shell and Python block runs, in order, as it is written.

The blocks run in a mirror of the root (links to the packages), so that `runs/` lies in a temporary folder. Two things
are not as a reader has them: STEPS, which the guide explains, makes trials of the trainings, in `runs/trial-...`; and
the mirror's `.venv` is the environment of these tests, so make finds it installed. `make test` is only dry-run: it
would start these tests again.
Commands that begin with `python` run in a process that has torch imported: twenty imports would take a minute.
"""

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import python

ROOT = Path(__file__).parents[1]
DOCS = [page for folder in ("docs", "docs/results") for page in sorted((ROOT / folder).glob("*.md"))]
README, GUIDE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "guide.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README + GUIDE, flags=re.DOTALL | re.MULTILINE)
LINKED = ("mtrl", "agents", "envs", "scripts", "Makefile", "pyproject.toml", "constraints.txt")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    (root / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (root / ".venv" / path.name).symlink_to(path)
    (root / ".venv" / ".installed").touch()
    return root


def commands(language, text):
    """What one block asks for, command by command."""
    if language == "python":
        return [["python", "-c", text]]
    return [[as_trial(word) for word in shlex.split(line)] for line in text.splitlines()]


def as_trial(word):
    """The folder of a training under STEPS; numbers of steps and of seeds, within reason."""
    return {"4000": "40", "0,1": "0"}.get(word, re.sub("^runs/(?=toy|mt)", "runs/trial-", word))


def run(words, mirror, printed):
    """Runs one command as a reader would; fails with what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "STEPS": "20", "OMP_NUM_THREADS": "1"}
    if words[0] == "python":
        code = python(words[1:], mirror, environment, printed)
    else:
        words = ["make", "--dry-run", "test"] if words == ["make", "test"] else words
        with printed.open("w") as file:
            code = subprocess.run(words, cwd=mirror, env=environment, stdout=file, stderr=file, timeout=1200).returncode
    assert code == 0, f"{shlex.join(words)}\n{printed.read_text()[-4000:]}"


def test_every_block_runs(mirror, tmp_path):
    """One test, as later blocks use the runs of earlier ones."""
    assert {"bash", "python"} == {language for language, _ in BLOCKS}
    asked = [words for language, text in BLOCKS for words in commands(language, text)]
    assert {"make", "python"} == {words[0] for words in asked}
    for number, words in enumerate(asked):
        run(words, mirror, tmp_path / str(number))
    assert (mirror / "success.png").exists()
    assert (mirror / "runs/trial-mt10-quick-pcgrad-seed0/result.json").exists()


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_blocks_of_the_other_pages_run(mirror, tmp_path):
    texts = [
        text for page in sorted((ROOT / "docs").glob("*.md")) for text in python_blocks(page) if page.stem != "guide"
    ]
    texts.append("".join(python_blocks(ROOT / "CONTRIBUTING.md")))  # one example, in two blocks
    assert all(texts)
    for number, text in enumerate(texts):
        run(["python", "-c", text], mirror, tmp_path / str(number))


def test_linked_files_exist():
    pages = [*ROOT.glob("*.md"), *DOCS]
    assert len(pages) > 5
    for page in pages:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        links = [link.partition("#")[0] for link in re.findall(r"\]\(((?!http)[^)]+)\)", prose)]
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, f"{page.name} links to {', '.join(missing)}"


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*(?![\w.-])")


def flags_of(command, capsys):
    """All flags that the help of `python -m scripts.COMMAND` names."""
    module = importlib.import_module(f"scripts.{command}" + (".__main__" if command == "bench" else ""))
    words = ["toy", "--help"] if command == "train" else ["--help"]
    with contextlib.suppress(SystemExit):
        module.main(words)
    more = {"--resume", "--diff", "--print-preset", "--go-on", "--run-code"} if command == "train" else set()
    return more | set(FLAG.findall(capsys.readouterr().out))


def test_commands_flags_and_files_on_the_pages_exist(capsys, monkeypatch):
    """What was renamed or removed must not live on in the documentation."""
    monkeypatch.setenv("COLUMNS", "300")
    names = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")} - {"picture"} | {"bench"}
    known = {name: flags_of(name, capsys) for name in names}
    known["sweep"] |= known["train"]
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"python -m scripts\.(\w+)([^\n`|]*)", text):
            assert command in known, f"{page.name}: there is no scripts.{command}"
            assert set(FLAG.findall(rest)) <= known[command], f"{page.name}: scripts.{command}{rest}"
        for span in re.findall(r"(?<!`)`(--[^`\n]+)`", text):
            assert set(FLAG.findall(span)) <= set.union(*known.values()), f"{page.name}: {span}"
        for path in re.findall(r"`((?:mtrl|agents|envs|scripts|tests|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists() or path.endswith("median_clip.py"), f"{page.name}: there is no {path}"


def test_all_presets_and_exit_codes_are_named():
    from scripts.common.command import EXIT_DISK, EXIT_IN_USE, EXIT_NON_FINITE, EXIT_USAGE, EXIT_WORKER
    from scripts.setup.presets import PRESETS

    assert all(f"`{name}`" in GUIDE for name in PRESETS)
    assert all(f" {code} " in GUIDE for code in (EXIT_USAGE, EXIT_NON_FINITE, EXIT_WORKER, EXIT_DISK, EXIT_IN_USE))


def test_all_aggregators_are_on_the_pages():
    from mtrl import AGGREGATORS, WEIGHTINGS
    from tests.aggregators_page import PAGE, written

    page = PAGE.read_text()
    assert page == written(page), "docs/aggregators.md is out of date: python -m tests.aggregators_page"
    measured = (ROOT / "docs" / "aggregators_measured.md").read_text()
    for name, kind in (AGGREGATORS | WEIGHTINGS).items():
        assert f"`{name}`" in GUIDE
        assert name in WEIGHTINGS or f"| `{name}` |" in measured, f"docs/aggregators_measured.md: the cost of {name}?"
        assert "Use it when" in kind.__doc__
