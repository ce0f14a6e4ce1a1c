"""Runs are files: what is written can be read again, goes on at resume, and damage is noticed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agents import Evaluation
from scripts.cli import UsageError
from scripts.config import TrainConfig
from scripts.csv_table import CsvOutputFormat, CsvTable
from scripts.protocol import describe, hash_goals
from scripts.report import best_evaluation, success_table, summarize, wilson
from scripts.run_folder import RunFolder, require_new

TASKS = ("reach-v3", "push-v3")
GOALS = {name: np.arange(6.0).reshape(2, 3) + i for i, name in enumerate(TASKS)}
CONFIG = TrainConfig(preset="mt10", tasks=TASKS)


def evaluation(rate, episodes=10):
    success = np.tile(np.arange(episodes) < round(rate * episodes), (2, 1)).astype(float)
    return Evaluation(TASKS, success, success * 0, success * 100, success * 0 + 500)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", CONFIG, describe(CONFIG, TASKS, GOALS), GOALS).save()


# ------------------------------------------------------------------------------------------------------- CSV files
def test_a_column_that_comes_later_is_empty_before(tmp_path):
    table = CsvTable(tmp_path / "t.csv")
    table.append([{"a": 1}])
    table.append([{"b": "x,y", "a": 2}])
    assert table.read() == [{"a": "1", "b": ""}, {"a": "2", "b": "x,y"}]


def test_a_second_writer_appends(tmp_path):
    CsvTable(tmp_path / "t.csv").append([{"a": 1}])
    CsvTable(tmp_path / "t.csv").append([{"a": 2}])
    assert (tmp_path / "t.csv").read_text().split() == ["a", "1", "2"]


def test_logger_rows_carry_the_step_and_respect_exclusions(tmp_path):
    table = CsvTable(tmp_path / "t.csv")
    CsvOutputFormat(table).write({"loss": 0.5, "secret": 1}, {"loss": None, "secret": ("csv",)}, step=20)
    assert table.read() == [{"env_steps": "20", "loss": "0.5"}]


def test_rewind_forgets_what_came_after_the_checkpoint_and_a_torn_line(run):
    run.metrics.append([{"env_steps": 2 * step, "x": step} for step in (10, 20, 30)])
    for step in (10, 20, 30):
        run.add_evaluation(step, evaluation(0.5))
    with run.metrics.path.open("a") as file:
        file.write("8")  # killed while it wrote 80
    run.rewind(20)
    assert [row["x"] for row in run.metrics.read()] == ["10", "20"]
    assert run.success_curves()[0].tolist() == [10, 20]


# -------------------------------------------------------------------------------------------------------- protocol
def test_protocol_id_is_stable_and_sees_every_field(run):
    protocol = run.protocol
    assert protocol.id == describe(CONFIG, TASKS, GOALS).id == type(protocol).from_json(protocol.to_json()).id
    changed = [replace(protocol, **{name: "other"}) for name in protocol.to_json() if name != "tasks"]
    assert len({protocol.id, *(other.id for other in changed)}) == 1 + len(changed)
    assert replace(protocol, tasks=TASKS[::-1]).id != protocol.id


def test_goal_set_is_hashed_by_value():
    moved = {**GOALS, "push-v3": GOALS["push-v3"] + 1e-12}
    assert hash_goals(GOALS) == hash_goals({name: goals.copy() for name, goals in GOALS.items()}) != hash_goals(moved)


def test_seeds_and_lengths_may_share_an_axis_and_rewards_may_not(run):
    assert run.protocol.conflicts(replace(run.protocol, seed=1, goal_set="other", env_steps_per_task=5)) == []
    assert run.protocol.conflicts(replace(run.protocol, reward_version="v1", horizon=150)) == [
        "reward_version",
        "horizon",
    ]


# ------------------------------------------------------------------------------------------------------ run folder
def test_what_is_saved_is_opened(run):
    opened = RunFolder.open(run.path)
    assert (opened.config, opened.protocol) == (run.config, run.protocol)
    assert {name: goals.tolist() for name, goals in opened.goals.items()} == {n: g.tolist() for n, g in GOALS.items()}
    versions = json.loads((run.path / "versions.json").read_text())
    assert {"torch", "metaworld", "python", "machine"} <= versions.keys()


@pytest.mark.parametrize("name", ["config.json", "protocol.json", "goals.npz"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x04not ours", b"[]", b"{}"])
def test_damage_is_noticed(run, name, damage):
    (run.path / name).write_bytes(damage)
    with pytest.raises(UsageError, match="damaged"):
        RunFolder.open(run.path)


def test_a_missing_file_is_noticed(run):
    (run.path / "goals.npz").unlink()
    with pytest.raises(UsageError, match="damaged"):
        RunFolder.open(run.path)


def test_goals_of_another_run_are_noticed(run):
    np.savez(run.path / "goals.npz", **{name: goals + 1 for name, goals in GOALS.items()})
    with pytest.raises(UsageError, match="not the goal set"):
        RunFolder.open(run.path)


def test_no_checkpoint_and_no_evaluation_yet(run):
    with pytest.raises(UsageError, match="no checkpoint"):
        run.newest_checkpoint()
    with pytest.raises(UsageError, match="no evaluation yet"):
        run.success_curves()
    assert best_evaluation(run) is None


def test_damaged_evaluations_are_noticed(run):
    run.add_evaluation(10, evaluation(0.5))
    run.evaluations.path.write_text(run.evaluations.path.read_text().replace("0.5", "half"))
    with pytest.raises(UsageError, match="damaged"):
        run.success_curves()


def test_a_run_is_told_how_to_go_on(run):
    with pytest.raises(UsageError, match="--resume"):
        require_new(run.path)


# ---------------------------------------------------------------------------------------------------------- report
def test_wilson_interval_at_hand_computed_values():
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-4)
    assert wilson(50, 50) == pytest.approx((0.92865, 1), abs=1e-4)


def test_summary_by_name_and_best(run):
    for step, rate in ((10, 0.2), (20, 0.9), (30, 0.4)):
        run.add_evaluation(step, evaluation(rate))
    summary = summarize(evaluation(0.4))
    assert summary["tasks"]["push-v3"] | {"success_interval": None} == {
        "success": 0.4, "success_interval": None, "success_last": 0.0, "return": 40.0, "episodes": 10
    }  # fmt: skip
    assert summary["mean"]["episodes"] == 20
    assert best_evaluation(run) == {"env_steps_per_task": 20, "success": 0.9}
    assert success_table(summary, "title").row_count == 3
