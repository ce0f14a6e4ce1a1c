"""Runs are files: what is written can be read again, goes on at resume, and damage is noticed."""

import json
import resource
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from agents import Evaluation
from envs import find_benchmark
from scripts.analysis.comparison import summarise
from scripts.analysis.methods import Method
from scripts.analysis.success import over_environment_steps
from scripts.common.usage import UsageError
from scripts.runs import Run, software
from scripts.runs.files import read_protocol, require_new, write_json
from scripts.runs.loggers import Loggers
from scripts.runs.messages import success_table, training_table
from scripts.runs.protocol import describe, hash_goals
from scripts.runs.results import best_evaluation, group_means, latest_evaluation, summarize, wilson
from scripts.runs.resuming import rewind
from scripts.runs.run_logger import RunLogger
from scripts.runs.tables import CsvTable
from scripts.setup.config import TrainConfig

TASKS = ("reach-v3", "push-v3")
GOALS = {name: np.arange(6.0).reshape(2, 3) + i for i, name in enumerate(TASKS)}
CONFIG = TrainConfig(preset="mt10", tasks=TASKS)


def evaluation(rate, episodes=10):
    success = np.tile(np.arange(episodes) < round(rate * episodes), (2, 1)).astype(float)
    return Evaluation(TASKS, success, success * 0, success * 100, success * 0 + 500, success * 0 + 60)


@pytest.fixture
def run(tmp_path):
    return Run.new(tmp_path / "run", CONFIG, describe(CONFIG, TASKS, GOALS), GOALS).save()


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


def test_logger_rows_carry_the_step_and_respect_exclusions(run):
    Loggers(run, print).write({"loss": 0.5, "secret": 1}, {"loss": None, "secret": ("csv",)}, step=20)
    assert run.metrics.read() == [{"env_steps_per_task": "20", "loss": "0.5"}]


def test_rewind_forgets_what_came_after_the_checkpoint_and_a_torn_line(run):
    run.metrics.append([{"env_steps": 2 * step, "x": step} for step in (10, 20, 30)])
    for step in (10, 20, 30):
        run.add_evaluation(step, evaluation(0.5))
    with run.metrics.path.open("a") as file:
        file.write("8")  # killed while it wrote 80
    rewind(run, 20)
    assert [row["x"] for row in run.metrics.read()] == ["10", "20"]
    assert run.success_curves()[0].tolist() == [10, 20]


def test_rows_are_added_all_or_none_where_the_disk_takes_no_more(run):
    run.add_evaluation(10, evaluation(0.5))
    before = run.evaluations.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))  # room for one row and some of the next
    try:
        with pytest.raises(OSError, match="File too large"):
            run.add_evaluation(20, evaluation(0.5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.evaluations.path.read_bytes() == before
    run.add_evaluation(20, evaluation(0.5))
    assert run.success_curves()[0].tolist() == [10, 20]


def test_rewind_forgets_an_evaluation_that_lacks_a_task(run):
    for step in (10, 20):
        run.add_evaluation(step, evaluation(0.5))
    run.evaluations.path.write_text("".join(run.evaluations.path.read_text().splitlines(keepends=True)[:-1]))
    rewind(run, 20)
    assert run.success_curves()[0].tolist() == [10]
    assert latest_evaluation(run)["env_steps_per_task"] == 10


def test_tables_of_before_count_the_steps_of_all_tasks_and_go_on_per_task(run):
    run.metrics.append([{"env_steps": 2 * step, "x": step} for step in (10, 20, 30)])
    assert [run.step_of(row) for row in run.metrics.read()] == [10, 20, 30]
    opened = Run(run.path).verified()
    rewind(opened, 20)
    opened.metrics.append([{"env_steps_per_task": 30, "x": 1}])
    assert opened.metrics.columns == ["env_steps_per_task", "x"]
    assert [opened.step_of(row) for row in opened.metrics.read()] == [10, 20, 30]


def test_a_folder_that_was_moved_while_it_trained_is_not_begun_again(run):
    run.path.rename(run.path.with_name("moved"))
    for write in (lambda: run.add_evaluation(10, evaluation(0.5)), run.sync):
        with pytest.raises(OSError, match="moved or deleted"):
            write()
    assert not run.path.exists()


# -------------------------------------------------------------------------------------------------------- protocol
def test_protocols_of_published_runs_keep_their_ids():
    """They are read, written again without a change, and make the id that was printed when the run began."""
    found = list((Path(__file__).parents[2] / "docs/results").rglob("protocol.json"))
    assert len(found) > 10
    for path in found:
        saved, protocol = json.loads(path.read_text()), read_protocol(path)
        assert saved.pop("id") in (protocol.id, protocol.earlier_id)
        assert protocol.to_json() == saved


def test_a_run_whose_id_took_in_the_numbers_of_episodes_still_opens(run):
    values = json.loads((run.path / "protocol.json").read_text())
    assert values["id"] == run.protocol.id != run.protocol.earlier_id
    (run.path / "protocol.json").write_text(json.dumps(values | {"id": run.protocol.earlier_id}))
    assert Run(run.path).verified().protocol == run.protocol


@pytest.mark.parametrize("option", [{"train_horizon": 150}, {"envs_per_task": 2}, {"staggered_starts": True}], ids=str)
def test_how_episodes_are_collected_is_part_of_the_protocol(run, option):
    other = describe(replace(CONFIG, **option), TASKS, GOALS)
    assert run.protocol.changed(other) == list(option)
    assert run.protocol.conflicts(other) == [name for name in option if name != "envs_per_task"]  # plain SAC has one
    assert other.id != run.protocol.id


def test_a_training_horizon_that_says_nothing_new_is_no_other_protocol(run):
    assert describe(replace(CONFIG, train_horizon=500), TASKS, GOALS) == run.protocol


@pytest.mark.parametrize("name", ["config.json", "protocol.json"])
def test_a_run_of_before_an_option_is_told_by_its_missing_field(run, name):
    values = json.loads((run.path / name).read_text())
    del values["train_horizon"]
    (run.path / name).write_text(json.dumps(values))
    with pytest.raises(UsageError, match=rf"{name} is damaged: fields \['train_horizon'\] are missing or unknown"):
        Run(run.path).verified()


def test_protocol_id_is_stable_and_sees_every_field_but_the_numbers_of_episodes(run):
    protocol = run.protocol
    assert protocol.id == describe(CONFIG, TASKS, GOALS).id == type(protocol).from_json(protocol.to_json()).id
    names = protocol.to_json().keys() - {"tasks", "episodes_during", "episodes_final"}
    changed = [replace(protocol, **{name: "other"}) for name in names]
    assert len({protocol.id, *(other.id for other in changed)}) == 1 + len(changed)
    assert replace(protocol, tasks=TASKS[::-1]).id != protocol.id
    assert replace(protocol, episodes_during=1, episodes_final=2).id == protocol.id


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
    opened = Run(run.path).verified()
    assert (opened.config, opened.protocol) == (run.config, run.protocol)
    assert {name: goals.tolist() for name, goals in opened.goals.items()} == {n: g.tolist() for n, g in GOALS.items()}
    versions = json.loads((run.path / "versions.json").read_text())
    assert {"torch", "metaworld", "python", "machine"} <= versions.keys()


@pytest.mark.parametrize("name", ["config.json", "protocol.json", "goals.npz"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x04not ours", b"[]", b"{}"])
def test_damage_is_noticed(run, name, damage):
    (run.path / name).write_bytes(damage)
    with pytest.raises(UsageError, match="damaged"):
        Run(run.path).verified()


WRONG = [
    ("config.json", {"threads": "x"}, "threads: expected .*'x'"),
    ("config.json", {"batch_size": "q"}, "batch_size: expected a whole number; found 'q'"),
    ("config.json", {"batch_size": 1.5}, "batch_size: expected a whole number"),
    ("config.json", {"batch_size": True}, "batch_size: expected a whole number"),
    ("config.json", {"batch_size": 0}, "--batch-size: expected at least 1"),
    ("config.json", {"tasks": None}, "tasks: expected"),
    ("config.json", {"tasks": [1, 2]}, "tasks: expected"),
    ("config.json", {"tasks": ["push-v3"], "suite": "MT1"}, "benchmark"),
    ("config.json", {"ent_coef": None}, "ent_coef: expected auto"),
    ("config.json", {"reward_scale": [float("nan")]}, "--reward-scale"),
    ("config.json", {"suite": 5}, "suite: expected text"),
    ("config.json", {"suite": "MT11"}, "expected a suite among .*found .MT11."),
    ("config.json", {"horizon": 100}, "horizon 500 against 100"),
    ("config.json", {"seed": 3}, "seed 0 against 3"),
    ("config.json", {"device": "tpu"}, "device: expected"),
    ("config.json", {"aggregator": "nope"}, "unknown aggregator 'nope'"),
    ("config.json", {"critic_aggregator": "nope"}, "unknown aggregator 'nope'"),
    ("config.json", {"aggregator_options": {"no": 1}}, "config.json is damaged"),
    ("config.json", {"aggregator_options": []}, "aggregator_options: expected a table"),
    ("protocol.json", {"id": "0123456789ab"}, "its id is '0123456789ab'"),
    ("protocol.json", {"horizon": 100}, "its id is"),
    ("protocol.json", {"tasks": None}, "protocol.json is damaged"),
    ("protocol.json", {"tasks": ["reach-v3"]}, "its id is"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_a_wrong_value_is_noticed(run, name, change, message):
    (run.path / name).write_text(json.dumps(json.loads((run.path / name).read_text()) | change))
    with pytest.raises(UsageError, match=f"damaged.*{message}|{message}"):
        Run(run.path).verified()


@pytest.mark.parametrize("bit", [1, 128])
def test_no_flipped_bit_in_the_goals_gets_through(run, bit):
    path = run.path / "goals.npz"
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
        try:
            opened = Run(run.path).verified().goals
        except UsageError:
            continue
        assert hash_goals(opened) == run.protocol.goal_set  # the bit had no meaning, such as a date's


@pytest.mark.parametrize("table", ["metrics", "evaluations"])
@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "env_steps,env_steps_per_task\nx,x\n",
        "env_steps,env_steps_per_task,y\n1,1,z\n",
        "env_steps\n1,2\n",
    ],
)
def test_foreign_tables_are_noticed_before_anything_is_rewritten(run, table, text):
    path = getattr(run, table).path
    path.write_text(text)
    with pytest.raises(UsageError, match=f"{table}.csv is damaged"):
        rewind(Run(run.path).verified(), 10)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["env_steps_per_task,x,x\n10,1,2\n", "env_steps_per_task,x\n10\n20,1\n"])
def test_a_table_of_other_columns_than_its_header_says_is_damage_and_loses_no_row(run, text):
    run.metrics.append([{"env_steps_per_task": step, "x": step} for step in (10, 20)])
    before = run.metrics.path.read_text()
    run.conflicts.path.write_text(text)
    with pytest.raises(UsageError, match=r"conflicts\.csv is damaged: expected (each column once|2 cells in each row)"):
        rewind(Run(run.path).verified(), 10)
    assert (run.metrics.path.read_text(), run.conflicts.path.read_text()) == (before, text)


def test_a_table_that_a_spreadsheet_wrote_is_read_and_zeros_are_none(run):
    run.add_evaluation(10, evaluation(0.5))
    before = run.success_curves()
    whole = run.evaluations.path.read_bytes()
    run.evaluations.path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert str(Run(run.path).success_curves()) == str(before)
    run.evaluations.path.write_bytes(bytes(len(whole)))  # as a file system may leave it when the power goes
    with pytest.raises(UsageError, match=r"evaluations\.csv is damaged: expected a column env_steps_per_task"):
        Run(run.path).verified()


def test_bytes_that_are_no_text_are_noticed(run):
    run.metrics.path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"metrics\.csv .*damaged"):
        Run(run.path).verified()


def test_what_is_saved_again_keeps_goals_and_the_first_versions(run):
    names = ("goals.npz", "versions.json")
    before = [(run.path / name).stat().st_mtime_ns for name in names]
    (run.path / "goals.npz.partial").mkdir()  # writing the goals again would fail
    run.save()
    assert [(run.path / name).stat().st_mtime_ns for name in names] == before
    assert (run.path / "versions-resumed.json").read_text() == (run.path / "versions.json").read_text()


def test_other_software_is_told(run):
    assert run.other_software() == ""
    versions = json.loads((run.path / "versions.json").read_text())
    (run.path / "versions.json").write_text(json.dumps(versions | {"torch": "1.0", "machine": "another"}))
    assert run.other_software().startswith("torch 1.0 -> ")


def test_the_commit_of_the_code_and_what_was_changed_since_are_kept_and_told(run, tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(
            ["git", "-C", str(tmp_path / "code"), *identity, *words], check=True, capture_output=True, timeout=600
        )

    def revision():
        software._revision.cache_clear()
        return software._revision()

    monkeypatch.setattr(software, "_ROOT", tmp_path / "code")
    (tmp_path / "code").mkdir()
    found = [revision()]
    git("init")
    for text in ("a", "b"):
        (tmp_path / "code" / "x.py").write_text(text)
        git("add", ".")
        git("commit", "-m", text)
        found.append(revision())
    for text in ("c", "d"):
        (tmp_path / "code" / "x.py").write_text(text)
        found.append(revision())
    assert found[0] == ""
    assert len(set(found)) == 5
    assert found[3].startswith(f"{found[2]}-dirty-")
    values = json.loads((run.path / "versions.json").read_text())
    (run.path / "versions.json").write_text(json.dumps(values | {"revision": found[1]}))
    assert run.other_software() == f"revision {found[1]} -> {found[4]}"
    software._revision.cache_clear()


@pytest.mark.parametrize(
    ("name", "make"), [("tensorboard", "touch"), ("tasks", "touch"), ("result.json", "mkdir"), ("metrics.csv", "mkdir")]
)
def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_noticed(run, name, make):
    getattr(run.path / name, make)()
    with pytest.raises(UsageError, match=f"{name} is not a f"):
        Run(run.path).verified()


@pytest.mark.parametrize("table", ["metrics", "evaluations", "conflicts"])
def test_damage_is_told_of_the_table_that_has_it(run, table):
    getattr(run, table).path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=rf"{table}\.csv is damaged"):
        Run(run.path).verified()


def test_why_there_is_no_checkpoint_is_told(run):
    with pytest.raises(UsageError, match="ended before its first one"):
        run.newest_checkpoint()
    write_json(run.path / "result.json", {"status": "finished"})
    with pytest.raises(UsageError, match=r"kept without it: restore it from a copy\.$"):
        run.newest_checkpoint()
    run.checkpoints.mkdir()
    run.best.touch()
    with pytest.raises(UsageError, match="--best does without"):
        run.newest_checkpoint()


def test_other_software_does_not_make_a_run_foreign(run):
    protocol = replace(run.protocol, mujoco="2.0", env_steps_per_task=5)
    Run.new(run.path, run.config, protocol, run.goals).save()
    assert Run(run.path).verified().protocol.mujoco == "2.0"


def test_a_missing_file_is_noticed(run):
    (run.path / "goals.npz").unlink()
    with pytest.raises(UsageError, match=r"goals\.npz is missing\. Restore"):
        Run(run.path).verified()


def test_goals_of_another_run_are_noticed(run):
    np.savez(run.path / "goals.npz", **{name: goals + 1 for name, goals in GOALS.items()})
    with pytest.raises(UsageError, match=r"damaged: .* goal_set"):
        Run(run.path).verified()


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
    assert {wilson(n, n)[1] for n in range(1, 200)} == {1.0}
    assert {wilson(0, n)[0] for n in range(1, 200)} == {0.0}


def test_summary_by_name_and_best(run):
    for step, rate in ((10, 0.2), (20, 0.9), (30, 0.4)):
        run.add_evaluation(step, evaluation(rate))
    summary = summarize(evaluation(0.4))
    assert summary["tasks"]["push-v3"] | {"success_interval": None} == {
        "success": 0.4, "success_interval": None, "success_last": 0.0, "return": 40.0, "episodes": 10,
        "steps_to_success": 60.0,
    }  # fmt: skip
    assert summary["mean"]["episodes"] == 20
    assert best_evaluation(run) == {"env_steps_per_task": 20, "success": 0.9}
    table = success_table(summary, "title")
    assert (table.title, table.row_count) == ("title, 10 episodes per task", 3)


def test_a_success_that_was_not_reported_is_unknown_and_no_damage(run):
    for step, rates in ((10, (0.2, 0.4)), (20, (0.7, np.nan)), (30, (np.nan, np.nan))):
        success = np.array(rates)[:, None].repeat(10, 1)
        run.add_evaluation(step, Evaluation(TASKS, success, success, success * 0, success * 0 + 500, success * 0 + 60))
    steps, curves = Run(run.path).success_curves()
    assert steps.tolist() == [10, 20, 30]
    assert np.array_equal(list(curves.values()), [[0.2, 0.7, np.nan], [0.4, np.nan, np.nan]], equal_nan=True)
    assert best_evaluation(run) == {"env_steps_per_task": 20, "success": 0.7}, "over the tasks that report it"
    assert latest_evaluation(run)["mean"]["success"] is None
    method = Method("mean", "mean", (run,))
    with pytest.raises(UsageError, match=r"expected the success of every task; push-v3 did not report it .* at 20 "):
        summarise(method, 20)
    assert summarise(method, 10).best == pytest.approx(0.3)
    (line,) = over_environment_steps([method]).axes[0].lines
    assert line.get_xdata().tolist() == [10], "no point where a task is unknown"


def test_without_a_success_there_is_no_best_one(run):
    unknown = np.full((2, 10), np.nan)
    run.add_evaluation(10, Evaluation(TASKS, unknown, unknown, unknown * 0, unknown, unknown))
    assert best_evaluation(run) is None


def test_the_latest_evaluation_is_read_back_as_it_was(run):
    assert latest_evaluation(run) is None
    for step, rate in ((10, 0.2), (20, 0.9)):
        run.add_evaluation(step, evaluation(rate))
    assert latest_evaluation(Run(run.path).verified()) == {"env_steps_per_task": 20, **summarize(evaluation(0.9))}


def test_a_distance_may_be_told_at_some_evaluations_and_not_at_others(run):
    """By environments that report it only sometimes, or since or until a resume: its cell is then empty."""
    silent, telling = evaluation(0.5), evaluation(0.5)._replace(goal_distance=np.full((2, 10), 0.25))
    for step, found in ((10, silent), (20, telling), (30, silent), (40, telling)):
        run.add_evaluation(step, found)
        assert latest_evaluation(Run(run.path).verified()) == {"env_steps_per_task": step, **summarize(found)}
    assert run.evaluations["goal_distance"][::2].tolist() == pytest.approx([np.nan, 0.25] * 2, nan_ok=True)


def test_loggers_get_means_over_the_tasks_that_tell(run):
    found = evaluation(0.5)
    found.success[1] = np.nan
    found = found._replace(goal_distance=np.array([[0.25] * 9 + [np.nan], [np.nan] * 10]))
    logger = RunLogger(run)
    with mock.patch.object(logger, "metrics") as metrics:
        logger.evaluation(10, found)
    ((_, values),) = [call.args for call in metrics.call_args_list]
    known = {name: mean for name, mean in values.items() if name.startswith(("eval/success", "eval/goal"))}
    of_first = {f"eval/{name}{of}": mean for name, mean in (("success", 0.5), ("goal_distance", 0.25))
                for of in ("", "/reach-v3")}  # fmt: skip
    assert known == of_first | {f"eval/success_last{of}": 0.0 for of in ("", "/reach-v3", "/push-v3")}


def test_tables_of_before_have_no_steps_to_success(run):
    """As version 0.1 wrote them, and as they are after a resumed run added the column."""
    run.add_evaluation(10, evaluation(0.5))
    rows = run.evaluations.read()
    old = [{name: cell for name, cell in row.items() if name != "steps_to_success"} for row in rows]
    for columns in (list(old[0]), list(rows[0])):
        run.evaluations.replace(old, columns)
        means = latest_evaluation(Run(run.path).verified())["mean"]
        assert (means["success"], means["steps_to_success"]) == (0.5, None)


def test_groups_of_difficulty_have_their_means():
    names = ("reach-v3", "push-v3", "pick-place-v3")
    success = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    summary = summarize(Evaluation(names, success, success, success, success, np.where(success > 0, 7.0, np.nan)))
    groups = group_means(summary, "MT10")
    found = find_benchmark("MT10").grouped(names)
    assert {group: means["success"] for group, means in groups.items()} == {
        f"{group} ({len(own)} {'task' if len(own) == 1 else 'tasks'})": pytest.approx(success[own].mean())
        for group, own in found.items()
    }
    assert len(groups) > 1
    assert not group_means(summary, "TOY")
    assert success_table(summary, "title", groups).row_count == 3 + len(groups) + 1


def test_before_the_first_evaluation_the_table_is_of_training_episodes():
    assert training_table({"train/critic_loss": 1.0}, TASKS, "stopped") is None
    metrics = {"rollout/success": 0.5, "rollout/return": 10.0}
    metrics |= {"rollout/success/reach-v3": 0.5, "rollout/return/reach-v3": 10.0}
    table = training_table(metrics, TASKS, "stopped")
    assert "training episodes, not an evaluation" in table.title
    assert [list(column.cells) for column in table.columns] == [
        ["reach-v3", "push-v3", "mean"], ["0.50", "-", "0.50"], ["-"] * 3, ["-"] * 3, ["10.0", "-", "10.0"], ["-"] * 3
    ]  # fmt: skip


def test_an_evaluation_that_lacks_a_task_is_noticed(run):
    run.add_evaluation(10, evaluation(0.5))
    run.evaluations.path.write_text("".join(run.evaluations.path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="expected one row of push-v3"):
        run.success_curves()


def test_a_task_may_have_any_name_that_a_suite_may_give(tmp_path):
    from scripts.runs.files import read_goals, write_goals

    goals = {name: np.full((2, 3), i) for i, name in enumerate(("file", "allow_pickle", "self", "a.b"))}
    write_goals(tmp_path / "goals.npz", goals)
    found = read_goals(tmp_path / "goals.npz")
    assert list(found) == list(goals)
    assert all(np.array_equal(found[name], goals[name]) for name in goals)
