"""STEPS makes a trial: it says so, gives way to whatever comes next, and is never taken for a result."""

import json
from pathlib import Path

import pytest

from scripts import train
from scripts.analysis.methods import find_runs
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.resuming import concluded
from scripts.setup import parse
from tests.run_folders import make_run
from tests.runs import TINY

FLAGS = [*TINY[1:], "--no-progress"]


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, steps, *flags):
    """A training with STEPS, or none for an empty one; returns its result."""
    monkeypatch.setenv("STEPS", steps)
    assert train.main(["toy", *FLAGS, *flags]) == 0
    path = "trial-toy-pcgrad-seed0" if steps and not flags else "toy-pcgrad-seed0"
    return json.loads((Path("runs") / path / "result.json").read_text())


def test_trial_and_run_never_meet(here, monkeypatch, capsys):
    for steps in ("20", "30"):  # the second replaces the first
        result = run(monkeypatch, steps)
        assert (result["trial"], result["env_steps_per_task"]) == (True, int(steps))
        assert f"STEPS={steps} is set: a trial, no result" in capsys.readouterr().out
    result = run(monkeypatch, "30", "--steps-per-task", "40")
    assert (result["trial"], result["env_steps_per_task"]) == (False, 40)
    assert "STEPS" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="or go on with that run: --resume runs/toy-pcgrad-seed0"):
        run(monkeypatch, "30", "--steps-per-task", "40")
    monkeypatch.setenv("STEPS", "10")
    assert train.main(["--resume", "runs/toy-pcgrad-seed0", "--steps-per-task", "60", "--no-progress"]) == 0
    assert concluded(Run("runs/toy-pcgrad-seed0"), 60)


def test_a_trial_goes_on_only_as_a_trial(here, monkeypatch, capsys):
    run(monkeypatch, "20")
    words = ["--resume", "runs/trial-toy-pcgrad-seed0", "--steps-per-task", "30", "--no-progress"]
    assert "  STEPS=20 python -m scripts.train --resume runs/trial-toy-pcgrad-seed0" in capsys.readouterr().out
    monkeypatch.delenv("STEPS")
    with pytest.raises(UsageError, match="trial-toy-pcgrad-seed0 is a trial"):
        train.main(words)
    monkeypatch.setenv("STEPS", "1")
    assert train.main(words) == 0
    assert json.loads((here / words[1] / "result.json").read_text())["env_steps_per_task"] == 30


def test_a_folder_with_a_trial_is_as_good_as_new_but_for_what_others_put_there(here, monkeypatch):
    monkeypatch.setenv("STEPS", "20")
    words = ["toy", *FLAGS, "--run-dir", "x"]
    assert train.main(words) == 0
    (here / "x" / "notes.txt").write_text("mine")
    monkeypatch.delenv("STEPS")
    with pytest.raises(UsageError, match="x is not empty"):
        train.main([*words, "--steps-per-task", "30"])
    assert [path.name for path in (here / "x").iterdir()] == ["notes.txt"]
    (here / "x" / "notes.txt").unlink()
    assert train.main([*words, "--steps-per-task", "30"]) == 0
    assert json.loads((here / "x" / "result.json").read_text())["trial"] is False


def test_trials_are_left_out_of_a_comparison_unless_there_is_nothing_else(tmp_path):
    make_run(tmp_path / "real")
    make_run(tmp_path / "trial-real", trial=True)
    with pytest.warns(UserWarning, match="left out: .*trial-real; trials, made with STEPS set"):
        assert [found.path.name for found in find_runs([tmp_path])] == ["real"]
    with pytest.warns(UserWarning, match="shown: .*trial-real"):
        assert len(find_runs([tmp_path / "trial-real"])) == 1


def test_a_folder_from_before_there_were_trials_is_a_run(tmp_path):
    made = make_run(tmp_path / "run")
    values = made.config.to_json()
    del values["trial"]
    (made.path / "config.json").write_text(json.dumps(values))
    assert not Run(made.path).verified().config.trial


def test_a_variable_of_that_name_that_is_somebody_elses_is_told_only_where_it_counts(here, monkeypatch):
    assert run(monkeypatch, "build,test", "--steps-per-task", "20")["trial"] is False
    with pytest.raises(UsageError, match="STEPS: expected a number"):
        run(monkeypatch, "build,test")


def test_no_flag_is_called_trial(capsys):
    with pytest.raises(SystemExit):
        parse.parse_train(["toy", "--trial"])
    assert "trial" in capsys.readouterr().err
