"""Processes of this package begin where the user works, whatever lies there."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import envs
import scripts
from envs.children import python, python_path

PACKAGES = "mtrl", "agents", "envs", "scripts"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with packages of our names and a file that a suite opens."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the user')")
    (tmp_path / "marks.txt").write_text("0.5 0.7")
    (tmp_path / "own_walks.py").write_text(
        "from tests.listed_tasks import Walk\n"
        "def tasks():\n"
        "    return [Walk(float(mark)) for mark in open('marks.txt').read().split()]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", ["scripts.train", "scripts.runs.film", "envs.workers.worker"])
def test_ours_is_found_and_not_the_one_of_the_working_folder(module, place):
    """Its file is asked for, not run: that takes a moment."""
    words, root = python(module), Path(scripts.__file__).parents[1]
    assert words[:3] == [sys.executable, "-P", "-m"]
    code = f"import importlib.util as i; print(i.find_spec({module.partition('.')[0]!r}).origin)"
    done = subprocess.run(
        [*words[:2], "-c", code], env=python_path(), capture_output=True, text=True, check=True, timeout=600
    )
    assert Path(done.stdout.strip()).is_relative_to(root)


@pytest.mark.parametrize("suite", ["own_walks:tasks", "own_walks.py:tasks"])
def test_tasks_in_workers_find_the_files_of_the_working_folder(suite, place, monkeypatch):
    monkeypatch.delitem(sys.modules, "own_walks", raising=False)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    env = envs.make(suite, 0, workers=1, horizon=9)
    assert np.array_equal(env.reset()[:, 1], np.float32([0.5, 0.7]))
    env.close()


def test_a_file_finds_the_file_beside_it_here_and_in_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it.py").write_text("from tests.listed_tasks import kept")
    (tmp_path / "suite.py").write_text("from beside_it import kept")
    env = envs.make(f"{tmp_path}/suite.py:kept", 0, workers=1, horizon=9)
    assert env.task_names == ("left", "right")
    env.close()


def test_own_code_below_the_prefix_of_python_is_handed_on_and_installed_code_is_not(monkeypatch):
    own = f"{sys.prefix}/src/app"
    monkeypatch.setattr(sys, "path", [own, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert python_path()["PYTHONPATH"].split(":")[1:] == [own]
