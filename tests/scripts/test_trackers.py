"""Experiment trackers, offline, by the real libraries; without the extra `track` those tests are skipped."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

from agents import Evaluation
from scripts.common.usage import UsageError
from scripts.runs import Run, loggers
from scripts.runs.loggers import Loggers, check_loggers
from scripts.runs.trackers import PROJECT, Tracker
from scripts.setup.parse import parse_train
from tests.run_folders import TASKS, make_run

LOSSES = {"train/critic_loss": 0.5, "time/env_steps_per_task": 10, "rollout/return": 3.0, "rollout/length": np.nan}


def tracked(path, name):
    run = Run(path) if path.exists() else make_run(path, success={})
    return Run.new(path, replace(run.config, loggers=("csv", name)), run.protocol, run.goals)


def train(path, name, step):
    """What a training tells its loggers: a row of metrics, an evaluation, the end."""
    said = []
    found = Loggers(tracked(path, name), said.append)
    found.write(LOSSES, dict.fromkeys(LOSSES, ()), step=step)
    outcomes = np.array([[1.0, 1.0], [0.0, 0.0]])
    found.evaluation(step, Evaluation(TASKS, outcomes, outcomes, 10 * outcomes, outcomes, outcomes))
    found.close()
    assert not said


def needs(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install -c constraints.txt -e '.[track]'")
    return importlib.import_module(package)


def test_mlflow_gets_settings_numbers_and_tables_and_goes_on_in_the_same_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow = needs("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for step in (10, 20):
        train(tmp_path / "run", "mlflow", step)
    client = mlflow.MlflowClient()
    (entry,) = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    assert entry.info.run_name == "run"
    assert entry.info.status == "FINISHED"
    assert entry.data.params["aggregator"] == "mean"
    assert entry.data.params["protocol"] == Run(tmp_path / "run").protocol.id
    history = client.get_metric_history(entry.info.run_id, "eval/success/reach-v3")
    assert [(point.step, point.value) for point in history] == [(10, 1.0), (20, 1.0)]
    assert entry.data.metrics["rollout/ep_rew_mean"] == 3.0
    assert entry.data.metrics["eval/mean_reward"] == 5.0
    assert "rollout/length" not in entry.data.metrics  # NaN
    table = mlflow.artifacts.load_dict(f"{entry.info.artifact_uri}/evaluation-20.json")
    assert table["columns"][:3] == ["env_steps_per_task", "task", "success"]


def test_wandb_gets_settings_numbers_and_tables_offline(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    needs("wandb")
    train(tmp_path / "run", "wandb", 10)
    (record,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    kept = record.read_bytes()
    entry = json.loads((tmp_path / "run/tracking.json").read_text())["wandb"]
    for word in (PROJECT, entry, "eval/mean_reward", "time/env_steps_per_task", "eval/success/push-v3", "table-file"):
        assert word.encode() in kept, word
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/table/evaluation*.json"))


def test_trackio_gets_settings_numbers_and_tables_and_goes_on_in_the_same_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    trackio = needs("trackio")
    for step in (10, 20):
        train(tmp_path / "run", "trackio", step)
    (entry,) = trackio.Api().runs(PROJECT)
    assert entry.name == json.loads((tmp_path / "run/tracking.json").read_text())["trackio"]


class Broken(Tracker):
    package = "json"  # any that is there

    def send(self, step, values):
        raise ConnectionError("no route to the server")


class NeverBegins(Broken):
    def __init__(self, run):
        raise ConnectionError("no key")


def test_the_error_of_a_tracker_costs_the_tracker_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "LOGGERS", loggers.LOGGERS | {"broken": Broken, "never": NeverBegins})
    said = []
    run = tracked(tmp_path / "run", "broken")
    found = Loggers(
        Run.new(run.path, replace(run.config, loggers=("never", "broken", "csv")), run.protocol, {}), said.append
    )
    for step in (10, 20):
        found.write(LOSSES, dict.fromkeys(LOSSES, ()), step=step)
    found.close()
    assert [line.split()[2] for line in said] == ["never", "broken"]
    assert run.metrics["train/critic_loss"].tolist() == [0.5, 0.5]


def test_a_missing_package_is_told_with_its_installation(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match=r"--track mlflow: expected the package mlflow.*pip install -c constraints.txt -e '\.\[track\]'",
    ):
        check_loggers(("csv", "mlflow"))
    check_loggers(("csv", "tensorboard"))


def test_track_adds_loggers_also_to_a_run_that_goes_on():
    assert parse_train(["toy", "--track", "wandb,mlflow"]).loggers == ("csv", "tensorboard", "wandb", "mlflow")
    request = parse_train(["--resume", "run", "--track=trackio,csv"])
    assert request.apply(parse_train(["toy"])).loggers == ("csv", "tensorboard", "trackio")


def test_curves_have_the_names_of_stable_baselines3_too(tmp_path):
    class Curves(loggers.CurveLogger):
        def draw(self, step, values):
            self.seen = values

    curves = Curves(make_run(tmp_path / "run"))
    for step in (10, 20):
        curves.metrics(step, LOSSES)
    assert curves.seen["rollout/ep_rew_mean"] == curves.seen["rollout/return"] == 3.0
    assert curves.seen["time/fps"] > 0
