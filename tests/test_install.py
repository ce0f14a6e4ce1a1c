"""What `make` does before there is an environment, with stand-ins for Python; and the console command."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import __main__ as console

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *{fails}*) exit 1 ;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stand_in(path, fails):
    """A program in place of Python that notes what it is called with, and fails at some of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(log=path.with_suffix(".log"), fails=fails))
    path.chmod(0o755)
    return path


def make(checkout, *words):
    return subprocess.run(["make", *words], cwd=checkout, capture_output=True, text=True, timeout=60)


def test_without_the_venv_module_make_says_what_to_install_and_makes_nothing(checkout):
    python = stand_in(checkout / "python", fails="ensurepip")
    done = make(checkout, "train", f"PYTHON={python}")
    assert done.returncode == 2
    assert "needs the venv module" in done.stdout
    assert "apt-get install python3-venv" in done.stdout
    assert not (checkout / ".venv").exists()


def test_an_environment_that_is_half_made_is_begun_anew_and_training_needs_no_development_tools(checkout):
    python = stand_in(checkout / "python", fails="nothing")
    inside = stand_in(checkout / ".venv/bin/python", fails="'import pip'")  # as it is left without ensurepip
    (checkout / ".venv/pyvenv.cfg").touch()
    make(checkout, "train", f"PYTHON={python}")
    assert "-m venv --clear .venv" in python.with_suffix(".log").read_text()
    installed = inside.with_suffix(".log").read_text()
    assert "-c constraints.txt -e .\n" in installed
    assert "[dev]" not in installed


def test_the_constraints_name_every_package_that_an_installation_brings():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert pinned == sorted(set(pinned), key=str.lower)
    known = {canonicalize_name(line.partition("==")[0]) for line in pinned}
    installed = {canonicalize_name(d.name): d.requires or () for d in metadata.distributions()}
    seen, todo = set(), [Requirement("mtrl-surgery[dev]")]
    while todo:
        wanted = todo.pop()
        extras = [{"extra": extra} for extra in ["", *wanted.extras]]
        for requirement in map(Requirement, installed.get(canonicalize_name(wanted.name), ())):
            applies = not requirement.marker or any(map(requirement.marker.evaluate, extras))
            if applies and str(requirement) not in seen:
                seen.add(str(requirement))
                todo.append(requirement)
                if requirement.name != "mtrl-surgery":
                    assert canonicalize_name(requirement.name) in known, f"{wanted} brings {requirement}"
    assert len(seen) > 50


def test_the_image_has_what_the_package_is_made_of_and_its_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    texts = {project["project"]["readme"], project["project"]["license"]["file"], "pyproject.toml", "constraints.txt"}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == packages | texts
    (command,) = project["project"]["scripts"]
    assert f'ENTRYPOINT ["{command}"]' in (ROOT / "Dockerfile").read_text()


def test_the_console_command_knows_every_command_and_no_other(monkeypatch, capsys):
    assert {"train", "evaluate", "report", "bench", "share"} <= set(console.commands())
    assert all((Path(console.__file__).parent / f"{name}.py").exists() for name in set(console.commands()) - {"bench"})
    monkeypatch.setattr("sys.argv", ["mtrl-surgery", "sweeep"])
    with pytest.raises(SystemExit) as end:
        console.main()
    assert end.value.code == 2
    assert "unknown command 'sweeep': did you mean sweep" in capsys.readouterr().err


def test_the_console_command_runs_a_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mtrl-surgery", "plot", "nothing/there"])
    with pytest.raises(SystemExit) as end:
        console.main()
    assert end.value.code == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_packages_of_the_users_own_that_are_in_the_way_are_named(tmp_path):
    """An editable installation finds our commands inside a package `scripts` of theirs, too."""
    for name in ("scripts", "envs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    code = f"import scripts; scripts.__path__.append({str(ROOT / 'scripts')!r}); import scripts.common.command"
    words, env = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}  # after the folder it runs in
    told = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600).stderr
    assert f"expected the package 'envs' in {ROOT}; found {tmp_path / 'envs' / '__init__.py'}. Run the command" in told
