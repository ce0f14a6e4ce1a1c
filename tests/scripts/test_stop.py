"""Stopped at an awkward moment, or broken down: what was promised is kept, and the advice that is printed works."""

import errno
import importlib
import json
import os
import shlex
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import MTSAC, NonFiniteError
from scripts import train
from scripts.common import command
from scripts.common.usage import UsageError
from scripts.runs import Run, session
from scripts.runs.claim import claimed
from scripts.runs.progress import StopSwitch
from scripts.runs.protocol import describe
from scripts.runs.tables import CsvTable
from tests.runs import assert_same_training, rows

SHORT = (
    "--steps-per-task 60 --warmup-steps 20 --eval-every 20 --checkpoint-every 20 --log-every 20 --horizon 10".split()
)
SHORT += "--final-goals 2 --eval-goals 1 --actor-width 8 --critic-width 8 --batch-size 4 --no-progress".split()
SHORT += ["--aggregator", "mean"]


def start(path, *flags):
    return train.main(["toy", *SHORT, "--run-dir", str(path), *flags])


def resume(path, *flags):
    return train.main(["--resume", str(path), "--no-progress", *flags])


def result(path):
    return json.loads((path / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert start(path) == 0
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def ctrl_c_in_evaluation(monkeypatch, at):
    """SIGINT in the middle of the evaluation at that step, the first time."""
    whole, pressed = session.evaluate, []

    def stopped(agent, env, episodes):
        if agent.steps_per_task == at and not pressed:
            pressed.append(at)
            env.reset()
            os.kill(os.getpid(), signal.SIGINT)
        return whole(agent, env, episodes)

    monkeypatch.setattr(session, "evaluate", stopped)


def advice(printed):
    """The arguments of the resume command that was printed last."""
    return shlex.split(printed.split("python -m scripts.train ")[-1].splitlines()[0])


@pytest.mark.parametrize("step", [20, 40, 60])
def test_an_evaluation_given_up_is_made_up_and_the_advice_works(step, finished, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"
    ctrl_c_in_evaluation(monkeypatch, step)
    assert start(path) == 130
    assert (result(path)["status"], result(path)["env_steps_per_task"]) == ("interrupted", step)
    words = advice(capsys.readouterr().out)
    assert "--steps-per-task" not in words  # steps are left, or the final evaluation is
    assert train.main([*words, "--no-progress"]) == 0
    assert (path / "evaluations.csv").read_text() == (finished / "evaluations.csv").read_text()
    assert result(path)["evaluation"] == result(finished)["evaluation"]


def test_a_signal_while_an_evaluation_is_written_waits_until_it_is(finished, tmp_path, monkeypatch):
    path, whole = tmp_path / "run", Run.add_evaluation

    def stopped(run, step, evaluation):
        os.kill(os.getpid(), signal.SIGTERM)
        whole(run, step, evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_evaluation", stopped)
        assert start(path) == 143
    assert len(rows(path / "evaluations.csv")) == 4
    assert resume(path) == 0
    assert (path / "evaluations.csv").read_text() == (finished / "evaluations.csv").read_text()


def test_ctrl_c_while_it_is_made_up_leaves_it_owed(tmp_path, monkeypatch):
    path = tmp_path / "run"
    for main in (start, resume):
        with monkeypatch.context() as patch:
            ctrl_c_in_evaluation(patch, 20)
            assert main(path) == 130
    assert result(path)["env_steps_per_task"] == 20
    assert not (path / "evaluations.csv").exists()
    assert resume(path) == 0
    assert Run(path).verified().success_curves()[0].tolist() == [20, 40, 60]


def test_killed_at_the_last_step_the_last_update_is_still_made(finished, tmp_path, monkeypatch):
    """A checkpoint at the last step that comes before that step's update would end the run without it."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "save_checkpoint", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit, match="killed"):
            start(tmp_path / "run")
    assert resume(tmp_path / "run") == 0
    assert_same_training(finished, tmp_path / "run")


def test_killed_before_result_json_it_is_written_at_resume(finished, copy):
    (copy / "result.json").unlink()
    assert resume(copy) == 0
    clocks = {"command": "", "seconds": 0}
    assert result(copy) | clocks == result(finished) | clocks
    with pytest.raises(UsageError, match="Extend it"):
        resume(copy)


def test_a_run_that_never_came_to_a_checkpoint_begins_anew(finished, tmp_path, monkeypatch):
    path = tmp_path / "run"
    ctrl_c_in_evaluation(monkeypatch, 20)
    with monkeypatch.context() as patch:
        patch.setattr(session, "save_checkpoint", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            start(path, "--checkpoint-every", "0")
    assert resume(path) == 0
    assert (path / "metrics.csv").exists()
    assert rows(path / "evaluations.csv") == rows(finished / "evaluations.csv")


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(copy):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "metrics.csv").read_bytes()
    with pytest.raises(UsageError, match="restore it from a copy"):
        resume(copy, "--steps-per-task", "70")
    assert (copy / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("told_by", ["result.json", "metrics.csv"])
def test_nor_is_one_that_saves_by_the_clock_or_at_its_end(told_by, copy):
    shutil.rmtree(copy / "checkpoints")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"checkpoint_every": 0, "checkpoint_minutes": 10.0}))
    if told_by == "result.json":
        (copy / "result.json").write_text(json.dumps(result(copy) | {"status": "interrupted"}))
    else:
        (copy / "result.json").unlink()
        table = Run(copy).metrics
        table.replace([{**row, "time/seconds_learn": 400, "time/seconds_env": 201} for row in table.read()])
    before = {path: path.read_bytes() for path in copy.glob("*.*")}
    with pytest.raises(UsageError, match="came further than its first"):
        resume(copy)
    assert {path: path.read_bytes() for path in copy.glob("*.*")} == before


def test_the_beginning_of_a_run_that_was_killed_is_in_nobodys_way(finished, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name in ("goals.npz", "versions.json", "protocol.json.partial", ".lock"):
        (path / name).write_bytes(b"torn")
    assert start(path) == 0
    assert_same_training(finished, path)


def test_the_advice_after_a_complete_run_works(finished, copy, capsys):
    assert resume(copy, "--steps-per-task", "70") == 0
    words = advice(capsys.readouterr().out)
    assert words == ["--resume", str(copy), "--steps-per-task", "140"]
    with pytest.raises(UsageError, match="Extend it"):
        resume(copy)


def test_stopped_before_the_first_evaluation_shows_training_episodes(tmp_path, monkeypatch, capsys):
    ctrl_c_in_evaluation(monkeypatch, 20)
    assert start(tmp_path / "run") == 130
    printed = capsys.readouterr().out
    assert "training episodes, not an evaluation" in printed
    assert "point-3" in printed


def ctrl_c_at(monkeypatch, step):
    """SIGINT before that step: -1 before there is an agent that learns."""
    whole = StopSwitch._on_step

    def pressed(switch):
        if switch.num_timesteps == 4 * step:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(switch)

    if step < 0:
        monkeypatch.setattr(MTSAC, "set_logger", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    else:
        monkeypatch.setattr(StopSwitch, "_on_step", pressed)


@pytest.mark.parametrize(
    ("step", "commands"),
    [
        (-1, ["train"]),
        (5, ["evaluate", "train"]),
        (25, ["evaluate", "plot", "train"]),
        (70, ["evaluate", "plot", "train"]),
    ],
)
def test_the_last_lines_name_files_that_are_there_and_commands_that_work(step, commands, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, step)
        assert start(tmp_path / "run") == (0 if step == 70 else 130)
    lines = capsys.readouterr().out.splitlines()
    (files,) = (line.rpartition(": ")[2].split(", ") for line in lines if line.startswith("Everything is in"))
    assert "result.json" in files
    assert all((tmp_path / "run" / name).exists() for name in files)
    told = [shlex.split(line)[2:] for line in lines if line.startswith("  python -m ")]
    assert [words[0] for words in told] == [f"scripts.{name}" for name in commands]
    more = {"scripts.evaluate": ["--episodes", "1"], "scripts.plot": ["--out", str(tmp_path / "x.png")]}
    for module, *words in told if step in (-1, 25) else ():  # a picture takes a while
        main = importlib.import_module(module).main
        assert main([*words, *more.get(module, ["--no-progress"])]) == 0


def test_a_run_ends_at_its_last_step_also_in_the_middle_of_a_round(tmp_path):
    assert start(tmp_path / "run", "--train-freq", "7", "--gradient-steps", "2") == 0
    assert result(tmp_path / "run")["env_steps_per_task"] == 60
    assert Run(tmp_path / "run").verified().success_curves()[0].tolist() == [20, 40, 60]


def test_stopped_right_after_resume_the_last_evaluation_is_kept(finished, copy, monkeypatch):
    run = Run(copy).verified()
    monkeypatch.setattr(MTSAC, "learn", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    assert resume(copy, "--steps-per-task", "70") == 130
    assert result(run.path)["evaluation"] == result(finished)["evaluation"]


def test_evaluations_that_vanished_are_not_made_up_but_the_newest(copy):
    (copy / "evaluations.csv").unlink()
    assert resume(copy, "--steps-per-task", "70") == 0
    assert Run(copy).verified().success_curves()[0].tolist() == [60, 70]


@pytest.mark.parametrize("steps", [30, 40])
def test_a_run_is_not_made_shorter_than_it_is(steps, copy):
    """Its end would be called after fewer steps than it has, with the few episodes of an evaluation on the way."""
    shutil.rmtree(copy / "checkpoints" / "step_000000060")
    (copy / "result.json").unlink()
    before = {path: path.read_bytes() for path in copy.glob("*.*")}
    with pytest.raises(UsageError, match=f"expected more than the 40 per task .* found {steps}"):
        resume(copy, "--steps-per-task", str(steps))
    assert {path: path.read_bytes() for path in copy.glob("*.*")} == before
    assert resume(copy, "--steps-per-task", "50") == 0
    found = result(copy)
    assert (found["env_steps_per_task"], found["evaluation"]["mean"]["episodes"]) == (50, 8)


@pytest.mark.parametrize(("field", "value"), [("reward_version", "v1"), ("horizon", 9), ("suite", "MT10")])
def test_a_run_does_not_go_on_with_another_protocol(field, value, copy):
    config = Run(copy).verified().config
    (copy / "config.json").write_text(json.dumps(replace(config, **{field: value}).to_json()))
    before = (copy / "protocol.json").read_text()
    with pytest.raises(UsageError, match="benchmark" if field == "suite" else field):
        resume(copy, "--steps-per-task", "70")
    assert (copy / "protocol.json").read_text() == before


def test_a_folder_that_another_training_holds_is_named(copy):
    with claimed(copy), pytest.raises(UsageError, match=f"process {os.getpid()} trains there"):
        resume(copy, "--steps-per-task", "70")
    with claimed(copy), pytest.raises(UsageError, match="trains there"):
        start(copy)


def broken(agent):
    """The guard has seen a number that is not finite."""
    values = torch.zeros(3, agent.num_tasks)
    values[0, 2] = np.nan
    agent.guard.watch(values, 7)


@pytest.mark.parametrize(("step", "found"), [(20, "There is no checkpoint"), (40, "step_000000020")])
def test_a_broken_policy_is_not_evaluated_and_the_way_back_is_told(step, found, tmp_path, monkeypatch, capsys):
    path, owed = tmp_path / "run", session.Session.catch_up

    def breaks(session, switch):
        if session.agent.steps_per_task == step:
            broken(session.agent)
        owed(session, switch)

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "catch_up", breaks)
        with pytest.raises(NonFiniteError, match="point-2"):
            start(path)
    printed = capsys.readouterr().out
    assert found in printed
    assert json.loads((path / "postmortem.json").read_text())["env_steps_per_task"] == step
    if step > 20:
        assert Run(path).verified().success_curves()[0].tolist() == [20]
        assert train.main([*advice(printed), "--no-progress"]) == 0
        assert Run(path).verified().config.learning_rate == 5e-4


def test_a_checkpoint_of_other_tasks_is_not_evaluated(copy):
    from scripts import evaluate

    run = Run(copy).verified()
    names = run.protocol.tasks[::-1]
    Run.new(run.path, run.config, describe(run.config, names, run.goals), run.goals).save()
    with pytest.raises(UsageError, match="expected the tasks"):
        evaluate.main([str(copy), "--episodes", "1"])


def test_evaluate_visits_all_goals_of_the_run_however_many(tmp_path):
    from scripts import evaluate

    assert start(tmp_path / "run", "--goals", "3") == 0
    assert evaluate.main([str(tmp_path / "run"), "--json", str(tmp_path / "table.json")]) == 0
    assert json.loads((tmp_path / "table.json").read_text())["tasks"]["point-0"]["episodes"] == 3


@pytest.mark.parametrize("target", ["folder", "no/such/file.json"])
def test_evaluate_looks_where_to_write_before_it_evaluates(target, copy, tmp_path, monkeypatch):
    from scripts import evaluate

    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(UsageError, match="--json: expected a file"):
        evaluate.main([str(copy), "--json", str(tmp_path / target)])


@pytest.mark.parametrize(
    "change", [{"gamma": 0.5}, {"batch_size": 16}, {"aggregator": "pcgrad", "aggregator_options": {}}, {"tau": 0.5}]
)
def test_a_config_that_says_otherwise_than_the_checkpoint_is_told(copy, change):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=rf"config\.json that says how .* was trained; .*{next(iter(change))} "):
        resume(copy, "--steps-per-task", "70")


class Full(OSError):
    def __init__(self):
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("moment", ["in the rows", "before the rows", "before the result"])
def test_a_disk_that_is_full_at_the_end_costs_nothing_once_there_is_room(moment, finished, tmp_path, monkeypatch):
    """In the rows, as far as a disk of before this was told: some of the last evaluation's rows are there."""
    path = tmp_path / "run"
    with monkeypatch.context() as full:
        if moment == "before the result":
            full.setattr(session, "write_result", lambda *_: (_ for _ in ()).throw(Full()))
        else:
            append = CsvTable.append

            def some(table, rows):
                rows = list(rows)
                if table.path.name == "evaluations.csv" and int(rows[0]["env_steps_per_task"]) == 60:
                    append(table, rows[: 1 if moment == "in the rows" else 0])
                    raise Full
                append(table, rows)

            full.setattr(CsvTable, "append", some)
        with pytest.raises(OSError, match="No space left"):
            start(path)
    assert Run(path).verified().status == "unfinished"
    assert resume(path) == 0
    assert result(path)["status"] == "finished"
    assert not (path / "postmortem.json").exists()
    assert_same_training(finished, path)


def test_a_folder_that_is_renamed_while_it_trains_goes_on_at_its_new_place(finished, tmp_path, monkeypatch, capsys):
    path, moved = tmp_path / "run", tmp_path / "moved"
    save = session.Checkpoints.act

    def rename(checkpoints):
        if checkpoints.model.steps_per_task == 40:
            path.rename(moved)
        save(checkpoints)

    with monkeypatch.context() as patch:
        patch.setattr(session.Checkpoints, "act", rename)
        patch.setattr("sys.argv", ["train", "toy", *SHORT, "--run-dir", str(path)])
        with pytest.raises(SystemExit) as end:
            command.run(train.main)
    assert end.value.code == command.EXIT_DISK
    assert "moved or deleted" in capsys.readouterr().err
    assert not path.exists()
    assert resume(moved) == 0
    assert_same_training(finished, moved)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EMFILE])
def test_an_accident_with_files_is_one_line_and_not_the_end(number, capsys, monkeypatch):
    def accident(_):
        raise OSError(number, os.strerror(number), "metrics.csv")

    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(SystemExit) as end:
        command.run(accident)
    assert end.value.code == command.EXIT_DISK
    (line,) = capsys.readouterr().err.splitlines()
    assert "a training goes on with --resume" in line
