"""`--go-on`: the same command begins a run, goes on with it, makes it longer, and says that it is finished."""

import json
import shutil

import pytest

from agents import MTSAC
from scripts import train
from scripts.common import command
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.claim import claimed
from scripts.runs.session import Session
from tests.helpers import exit_code
from tests.runs import TINY, assert_same_training

WORDS = [*TINY, "--no-progress"]


def go_on(path, steps=60, *more):
    return train.main([*WORDS, "--steps-per-task", str(steps), "--run-dir", str(path), *more, "--go-on"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("go-on") / "run"
    assert train.main([*WORDS, "--steps-per-task", "60", "--run-dir", str(path)]) == 0
    return path


def contents(path):
    return {item: item.stat().st_mtime_ns for item in path.rglob("*")}


def test_one_command_begins_goes_on_and_is_done(finished, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"
    with monkeypatch.context() as killed:
        evaluate = Session.evaluate
        counts = iter(range(9))

        def dies(session, *given):
            if next(counts) == 1:
                raise KeyboardInterrupt
            evaluate(session, *given)

        killed.setattr(Session, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            go_on(path)
    assert Run(path).status == "unfinished"
    assert go_on(path) == 0
    assert_same_training(finished, path)
    before = contents(path)
    assert go_on(path) == 0
    assert contents(path) == before
    assert "is finished" in capsys.readouterr().out
    assert go_on(path, 80, "--workers", "1") == 0
    assert (Run(path).config.steps_per_task, Run(path).config.workers) == (80, 1)


def test_a_run_without_a_checkpoint_begins_anew_in_its_place(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for name in ("result.json", "metrics.csv", "evaluations.csv", "conflicts.csv"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    assert go_on(tmp_path / "run") == 0
    assert_same_training(finished, tmp_path / "run")


def test_a_folder_in_use_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys):
    words = [*WORDS, "--run-dir", str(tmp_path / "run"), "--go-on"]
    with claimed(tmp_path / "run"):
        assert exit_code(monkeypatch, train.main, words) == command.EXIT_IN_USE == 6
        assert "is in use: process" in capsys.readouterr().err


def test_who_holds_a_folder_on_another_node_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with claimed(tmp_path / "run"):
        monkeypatch.setenv("SLURMD_NODENAME", "n2")
        with pytest.raises(UsageError, match=r"process \d+ on n1 trains there"), claimed(tmp_path / "run"):
            pass


def test_what_failed_fails_again_without_training(finished, tmp_path, monkeypatch, capsys):
    path = shutil.copytree(finished, tmp_path / "run")
    (path / "result.json").unlink()
    found = {"error": "NonFiniteError", "task": "point-2", "quantity": "critic loss", "update": 30, "source": None}
    (path / "postmortem.json").write_text(json.dumps(found))
    monkeypatch.setattr(MTSAC, "learn", lambda *_, **__: pytest.fail("trained"))
    words = [*WORDS, "--steps-per-task", "60", "--run-dir", str(path), "--go-on"]
    assert exit_code(monkeypatch, train.main, words) == command.EXIT_NON_FINITE
    assert "critic loss of task point-2 became non-finite" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "found"), [(["--gamma", "0.5"], "gamma"), (["--seed", "1"], "seed")])
def test_another_run_at_its_place_is_named_and_left_alone(more, found, finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    before = contents(path)
    with pytest.raises(UsageError, match=f"with other settings: .*{found}"):
        go_on(path, 60, *more)
    assert contents(path) == before
    with pytest.raises(UsageError, match="steps_per_task"):
        go_on(path, 40)


def test_a_trial_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "20")
    for _ in range(2):
        assert train.main([*WORDS, "--run-dir", str(tmp_path / "run"), "--go-on"]) == 0
    assert Run(tmp_path / "run").config.trial
