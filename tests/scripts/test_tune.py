"""A search for settings: what it may be asked for, and a small study that is stopped, resumed and finished."""

import contextlib
import errno
import os
import shutil
import signal
import sqlite3
from types import SimpleNamespace

import pytest

from scripts import tune
from scripts.common.usage import UsageError
from scripts.setup.config import TrainConfig
from scripts.setup.presets import find
from scripts.sweeps.launchers import LAUNCHERS
from scripts.sweeps.space import flags, read_space
from scripts.sweeps.study import Search, study_errors
from tests.helpers import exit_code
from tests.run_folders import make_run

RANGE = "learning-rate=log:1e-4:3e-3"


def test_a_space_has_the_names_types_and_bounds_of_the_settings():
    space = read_space(
        [RANGE, "batch-size=16:64"], ["gamma=0.9,0.97", "multi-head=true,false", "aggregator=mean,pcgrad"]
    )
    assert [(d.name, d.values, d.kind) for d in space[:2]] == [
        ("learning_rate", (1e-4, 3e-3), "log"),
        ("batch_size", (16, 64), "linear"),
    ]
    assert [d.values for d in space[2:]] == [(0.9, 0.97), (True, False), ("mean", "pcgrad")]
    found = flags({"batch_size": 16, "multi_head": False, "aggregator": "mean"})
    assert found == ["--batch-size=16", "--no-multi-head", "--aggregator=mean"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found neither range nor choice"),
        (["--range", "learnin-rate=1e-4:1"], "did you mean learning_rate"),
        (["--range", "steps-per-task=1:2"], "unknown setting"),
        (["--range", "gamma=0.9:1.5"], "expected between 0 and 1; found 1.5"),
        (["--range", "gamma=0.9"], "expected NAME=LOW:HIGH"),
        (["--range", "gamma=0.9:nan"], "expected NAME=LOW:HIGH"),
        (["--range", "tau=log:0:1"], "above 0 for log"),
        (["--range", "batch-size=1.5:3"], "whole numbers"),
        (["--range", RANGE, "--choice", "learning-rate=1e-3,1e-4"], "every setting once"),
        (["--choice", "gamma=0.9"], "two or more different values"),
        (["--choice", "multi-head=maybe,true"], "true or false"),
        (["--range", RANGE, "--trials", "0"], "--trials: expected at least 1; found 0"),
        (["--range", RANGE, "--flags=--seed 3"], "--seed"),
        (["--range", RANGE, "--launcher", "moon"], "unknown launcher"),
    ],
)
def test_what_cannot_be_searched_is_told_before_anything_is_written(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tune, "require_package", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, tune.main, ["toy", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_without_optuna_it_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -c constraints.txt -e '\.\[tune\]'"):
        tune.main(["toy", "--range", RANGE, "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


class Made:
    """A launcher whose trials are run folders, made at once: larger learning rates succeed more, later trials never."""

    at_once, remote, stop_at, started = 1, False, None, 0

    def __init__(self, *_):
        pass

    def start(self, job):
        Made.started += 1
        success = min(0.9, job.config.learning_rate * 300)
        bad = Made.started > 6
        curve = {100: (0.0 if bad else success,) * 2} | ({} if bad else {200: (success,) * 2})
        shutil.rmtree(job.path, ignore_errors=True)
        make_run(job.path, curve, "unfinished" if bad else "finished", steps_per_task=200)
        if Made.started == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return Ended(None if bad or Made.started == self.stop_at else 0)


class Ended:
    stopped = False

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def stop(self, at_once=False):
        self.code = 143


def test_on_a_cluster_it_asks_how_many_trials_run_side_by_side(monkeypatch, tmp_path):
    """All at once would be chosen knowing nothing."""
    monkeypatch.setattr(tune, "require_package", lambda *_: None)
    monkeypatch.setitem(LAUNCHERS, "far", lambda *_: SimpleNamespace(remote=True))
    with pytest.raises(UsageError, match="--jobs: expected a number on a cluster; found auto"):
        tune.main(["toy", "--range", RANGE, "--launcher", "far", "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_study_stops_goes_on_prunes_and_leaves_a_preset_of_the_winner(monkeypatch, tmp_path, capsys):
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install -c constraints.txt -e '.[tune]'")
    monkeypatch.setitem(LAUNCHERS, "made", Made)
    monkeypatch.setattr("scripts.sweeps.execution.time.sleep", lambda seconds: None)
    out = tmp_path / "study #1?"
    words = [
        "toy",
        "--range",
        RANGE,
        "--launcher",
        "made",
        "--out",
        str(out),
        "--flags=--steps-per-task 200 --threads 1",
    ]
    words[-1] = "--flags=--steps-per-task 200"
    monkeypatch.setattr(Made, "stop_at", 3)
    assert tune.main([*words, "--trials", "8"]) == 128 + signal.SIGTERM
    assert not (out / "winner.toml").exists()
    monkeypatch.setattr(Made, "stop_at", None)
    assert tune.main([*words, "--trials", "8"]) == 0
    text = capsys.readouterr().out
    assert "8 trials in" in text
    assert "2 already over" in text
    study = optuna.load_study(study_name="tune", storage=tune_storage(optuna, out))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 3
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 8
    winner = find(str(out / "winner.toml"))
    assert winner.config.learning_rate == study.best_params["learning_rate"]
    assert winner.config.progress
    assert tune.main([*words, "--trials", "8"]) == 0  # nothing left to do
    with pytest.raises(UsageError, match="found one with other settings: gamma"):
        tune.main([*words[:-1], words[-1] + " --gamma 0.8", "--trials", "8"])
    with pytest.raises(UsageError, match="other settings: searched"):
        tune.main([*words, "--trials", "8", "--choice", "gamma=0.8,0.9"])


def test_what_is_no_study_of_ours_is_told_and_a_full_disk_is_no_mistake_of_the_user(tmp_path):
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install -c constraints.txt -e '.[tune]'")
    import sqlalchemy

    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as other:
        other.execute("create table studies(x)")
    with pytest.raises(UsageError, match=r"expected a study of .*study\.db; found: .*no column.*[^.]\. Choose"):
        Search(tmp_path / "study.db", TrainConfig(), [], 1, None, print)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("create table photos(x)")
        with pytest.raises(UsageError, match="found: a database of something else"):
            Search(tmp_path / "other.db", TrainConfig(), [], 1, None, print)
        assert other.execute("select name from sqlite_master").fetchall() == [("photos",)]
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/full.db")
    sqlalchemy.event.listen(storage.engine, "connect", lambda db, _: db.execute("pragma max_page_count = 1"))
    storage.engine.dispose()

    def fill():
        with study_errors(tmp_path / "full.db"):
            for number in range(99):
                optuna.create_study(storage=storage, study_name=f"{number}{'x' * 400}")

    with pytest.raises(OSError, match="No space left") as told:
        fill()
    assert told.value.errno == errno.ENOSPC


def test_a_trial_that_the_machine_ended_is_tried_again(monkeypatch, tmp_path, capsys):
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install -c constraints.txt -e '.[tune]'")
    monkeypatch.setitem(LAUNCHERS, "made", Made)
    monkeypatch.setattr("scripts.sweeps.execution.time.sleep", lambda seconds: None)
    words = ["toy", "--range", RANGE, "--launcher", "made", "--out", str(tmp_path), "--flags=--steps-per-task 200"]
    words += ["--trials", "1", "--retries", "0"]
    monkeypatch.setattr(Made, "started", 0)
    with monkeypatch.context() as full:
        full.setattr(Ended, "poll", lambda _: 5)
        assert tune.main(words) == 1
    assert "toy-000-seed0: exit code 5; the same command tries it again" in capsys.readouterr().out
    assert tune.main(words) == 0
    study = optuna.load_study(study_name="tune", storage=tune_storage(optuna, tmp_path))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


def tune_storage(optuna, out):
    import sqlalchemy

    return optuna.storages.RDBStorage(
        sqlalchemy.URL.create("sqlite", database=str(out / "study.db")).render_as_string()
    )
