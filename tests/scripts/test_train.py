"""Train, stop, resume, evaluate and plot, as a user runs them: own processes, real files, the toy suite."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.saving.checkpoint import checkpoints
from scripts import evaluate, plot, train
from scripts.common.usage import UsageError
from scripts.runs import Run, session
from scripts.runs.forecast import Forecast
from scripts.runs.protocol import describe
from scripts.setup.build import make_env, make_evaluation_env, update_rounds
from scripts.setup.presets import PRESETS
from tests.runs import assert_same_training, end, rows, start, wait_until

SHORT = "--steps-per-task 100 --warmup-steps 40 --eval-every 30 --checkpoint-every 30 --log-every 20".split()
SHORT += "--final-goals 4 --eval-goals 2 --log-conflicts 7 --actor-width 16 --critic-width 16 --batch-size 8".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never stopped, and what it printed."""
    path, printed = tmp_path_factory.mktemp("runs") / "whole", tmp_path_factory.mktemp("printed") / "printed"
    return path, end(start(["toy", *SHORT, "--run-dir", path], printed), printed)


def test_a_finished_run_shows_and_keeps_everything(finished):
    path, printed = finished
    for word in ("Protocol", "replay buffer", "point-3", "mean", str(path), "scripts.evaluate", "scripts.plot"):
        assert word in printed
    names = {
        "config.json",
        "protocol.json",
        "versions.json",
        "goals.npz",
        "metrics.csv",
        "conflicts.csv",
        "evaluations.csv",
        "result.json",
    }
    assert names | {"tensorboard", "checkpoints"} == {file.name for file in path.iterdir()}
    result = json.loads((path / "result.json").read_text())
    assert (result["status"], result["env_steps_per_task"]) == ("finished", 100)
    assert result["protocol"]["id"] == Run(path).verified().protocol.id
    assert result["evaluation"]["mean"]["episodes"] == 4 * 4
    saved = [file.name for file in sorted((path / "checkpoints").iterdir())]
    assert saved == ["best.zip", "step_000000090", "step_000000100"]
    metrics = rows(path / "metrics.csv")
    assert [int(row["env_steps_per_task"]) for row in metrics] == list(range(20, 101, 20))
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("time/env_steps_per_task")] == list(range(20, 101, 20))
    assert [event.step for event in events.Scalars("eval/success")] == [30, 60, 90, 100]
    assert all(float(metrics[-1][f"train/critic_loss/point-{i}"]) > 0 for i in range(4))
    cosines = rows(path / "conflicts.csv")
    assert {row["network"] for row in cosines} == {"actor", "critic"}
    pairs = [f"point-{i}|point-{j}" for i in range(4) for j in range(i + 1, 4)]
    assert list(cosines[0]) == ["env_steps_per_task", "network", *pairs]
    assert all(-1 <= float(row[pair]) <= 1 for row in cosines for pair in pairs)
    assert len(rows(path / "evaluations.csv")) == 4 * 4


def test_ctrl_c_then_resume_is_the_run_that_never_stopped(finished, tmp_path):
    path, output = tmp_path / "stopped", tmp_path / "printed"
    process = start(["toy", *SHORT, "--run-dir", path, "--workers", 2], output)
    wait_until((path / "evaluations.csv").exists, process, output)
    os.kill(process.pid, signal.SIGINT)
    printed = end(process, output, code=128 + signal.SIGINT)
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert 30 <= result["env_steps_per_task"] < 100
    assert f"--resume {path}" in printed
    assert "point-3" in printed  # the table of the last evaluation

    end(start(["--resume", path, "--workers", 0], output), output)
    assert json.loads((path / "result.json").read_text())["status"] == "finished"
    assert_same_training(finished[0], path)


def test_kill_then_resume_is_the_run_that_never_stopped(finished, tmp_path):
    path, printed = tmp_path / "killed", tmp_path / "printed"
    process = start(["toy", *SHORT, "--run-dir", path], printed)
    metrics = path / "metrics.csv"
    # until the row of step 40, past the checkpoint of step 30
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, process, printed)
    process.kill()
    process.join()
    assert Run(path).verified().newest_checkpoint().is_dir()
    end(start(["--resume", path], printed), printed)
    assert_same_training(finished[0], path)


def test_non_finite_losses_name_the_task_and_exit_with_3(tmp_path):
    path, printed = tmp_path / "run", tmp_path / "printed"
    words = ["toy", *SHORT, "--run-dir", path, "--reward-scale", "1,1,1e30,1"]
    printed = end(start(words, printed), printed, code=3)
    assert "point-2" in printed
    assert "Traceback" not in printed
    assert json.loads((path / "postmortem.json").read_text())["task"] == "point-2"
    assert not (path / "result.json").exists()


def test_a_finished_run_can_be_extended_and_not_repeated(finished, tmp_path):
    path = tmp_path / "run"
    subprocess.run(["cp", "-r", finished[0], path], check=True, timeout=600)
    with pytest.raises(UsageError, match="Extend it with --steps-per-task"):
        train.main(["--resume", str(path)])
    assert train.main(["--resume", str(path), "--steps-per-task", "120", "--no-progress"]) == 0
    run = Run(path).verified()
    assert run.config.steps_per_task == run.protocol.env_steps_per_task == 120
    assert run.success_curves()[0].tolist() == [30, 60, 90, 100, 120]


def test_several_environments_per_task_with_short_and_staggered_episodes(tmp_path):
    """Three per task: 200 steps are 67 vector steps; in two parts as in one, but evaluations keep the whole horizon."""
    flags = [*SHORT, *"--steps-per-task 200 --final-goals 2 --eval-every 91 --no-progress".split()]
    flags += "--envs-per-task 3 --staggered-starts --train-horizon 10 --train-freq 2 --gradient-steps 1".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main(["toy", *flags, "--run-dir", str(whole)]) == 0
    assert train.main(["toy", *flags, "--run-dir", str(parts), "--steps-per-task", "100", "--workers", "2"]) == 0
    assert train.main(["--resume", str(parts), "--steps-per-task", "200", "--workers", "0", "--no-progress"]) == 0
    assert Run(parts).verified().success_curves()[0].tolist() == [93, 102, 183, 201]
    evaluations = Run(parts).verified().evaluations
    evaluations.replace([row for row in evaluations.read() if row["env_steps_per_task"] != "102"])
    assert_same_training(whole, parts)
    run = Run(whole).verified()
    assert (
        run.protocol.env_steps_per_task == json.loads((whole / "result.json").read_text())["env_steps_per_task"] == 201
    )
    assert (run.protocol.horizon, run.protocol.train_horizon) == (25, 10)
    last = run.metrics.read()[-1]
    assert int(last["env_steps_per_task"]) == 201
    assert 9 < float(last["rollout/length"]) < 10  # of the last 20 episodes of a task the first three were cut
    assert evaluate.main([str(whole), "--episodes", "2", "--json", str(tmp_path / "a.json")]) == 0
    mean = json.loads((tmp_path / "a.json").read_text())["mean"]
    assert mean == json.loads((whole / "result.json").read_text())["evaluation"]["mean"]


def test_evaluations_keep_the_horizon_and_one_environment_per_task():
    config = replace(PRESETS["toy"].config, train_horizon=10, envs_per_task=3, staggered_starts=True, workers=12)
    env = make_evaluation_env(replace(config, workers=0), make_env(replace(config, workers=0), 50).goals)
    env.reset()
    lengths = [info["episode"]["l"] for _ in range(25) for info in env.step(np.zeros((4, 2)))[3] if "episode" in info]
    assert lengths == [25] * 4
    assert make_evaluation_env(config, env.goals).num_workers == 4  # training has a worker for each of twelve
    with pytest.raises(UsageError, match="expected workers 'auto' or 0"):
        make_evaluation_env(replace(config, workers=13), env.goals)


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (3, 2), (64, 3)])
def test_an_evaluation_without_a_training_keeps_every_core_busy(cores, expected, monkeypatch):
    monkeypatch.setattr("envs.machine.cores", lambda: cores)
    config = replace(PRESETS["toy"].config, workers="auto")
    goals = make_env(replace(config, workers=0), 50).goals
    with contextlib.closing(make_evaluation_env(config, goals, alone=True)) as env:
        assert env.num_workers == expected


@pytest.mark.parametrize("train_freq", [1, 2, 7, 600])
@pytest.mark.parametrize("gradient_steps", [1, 3])
@pytest.mark.parametrize("copies", [1, 2, 3, 4])
def test_the_updates_per_step_do_not_depend_on_the_environments_per_task(train_freq, gradient_steps, copies):
    config = replace(PRESETS["toy"].config, train_freq=train_freq, gradient_steps=gradient_steps, envs_per_task=copies)
    vector_steps, updates = update_rounds(config)
    assert updates * train_freq == gradient_steps * copies * vector_steps
    if copies == 1:
        assert (vector_steps, updates) == (train_freq, gradient_steps)


def test_evaluation_is_the_same_each_time_and_goes_to_json(finished, tmp_path):
    for name in ("a.json", "b.json"):
        assert evaluate.main([str(finished[0]), "--episodes", "3", "--json", str(tmp_path / name)]) == 0
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers == json.loads((tmp_path / "b.json").read_text())
    assert (numbers["env_steps_per_task"], numbers["mean"]["episodes"]) == (100, 12)
    assert numbers["tasks"].keys() == {f"point-{i}" for i in range(4)}
    assert numbers["protocol"]["episodes_final"] == 3


def test_evaluate_refuses_more_episodes_than_goals(finished):
    with pytest.raises(UsageError, match="expected 1 to 50"):
        evaluate.main([str(finished[0]), "--episodes", "51"])


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(finished, tmp_path):
    path = tmp_path / "run"
    subprocess.run(["cp", "-r", finished[0], path], check=True, timeout=600)
    newest, before = (path / "checkpoints" / f"step_{step:09d}" / "agent.zip" for step in (100, 90))
    newest.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.warns(match=r"step_000000100 is damaged: agent\.zip .* Going back to step_000000090"):
        assert evaluate.main([str(path), "--episodes", "1", "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["env_steps_per_task"] == 90
    with pytest.warns(match="Going back to step_000000090"):
        assert train.main(["--resume", str(path), "--no-progress"]) == 0
    assert_same_training(finished[0], path)
    for file in (newest, before):
        file.write_bytes(b"\x80\x04\x95 a pickle")
    for command in (evaluate.main, lambda argv: train.main(["--resume", *argv])):
        with pytest.raises(UsageError, match=r"step_000000100 is damaged: agent\.zip"):
            command([str(path)])


def test_the_best_agent_is_kept_apart(finished, tmp_path):
    run = Run(finished[0]).verified()
    best = json.loads((run.path / "result.json").read_text())["best"]
    assert evaluate.main([str(run.path), "--best", "--episodes", "2", "--json", str(tmp_path / "b.json")]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["checkpoint"], found["env_steps_per_task"]) == ("best", best["env_steps_per_task"])
    assert found["mean"]["success"] == best["success"]


def test_plot_draws_one_run_and_several(finished, tmp_path):
    assert plot.main([str(finished[0]), str(finished[0]), "--out", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_plot_refuses_two_protocols(finished, tmp_path):
    path = tmp_path / "run"
    subprocess.run(["cp", "-r", finished[0], path], check=True, timeout=600)
    run = Run(path).verified()
    config = replace(run.config, reward_version="v1")
    Run.new(run.path, config, describe(config, run.protocol.tasks, run.goals), run.goals).save()
    with pytest.raises(UsageError, match="differ in reward_version"):
        plot.main([str(finished[0]), str(path)])


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    """A clock on which every step takes a second: one checkpoint each half minute, and the one at the end."""
    clock = itertools.count()
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    flags = ["--checkpoint-every", "0", "--checkpoint-minutes", "0.5", "--keep-checkpoints", "9", "--no-progress"]
    assert train.main(["toy", *SHORT, *flags, "--run-dir", str(tmp_path / "run")]) == 0
    found = [int(path.name.removeprefix("step_")) for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert found == [30, 60, 90, 100]


@pytest.mark.parametrize(
    ("compiled", "told"), [(False, "10 min, env"), (True, "10 min, less once they are compiled, env")]
)
def test_the_forecast_says_that_it_timed_eager_updates(compiled, told):
    assert str(Forecast(updates=600, environments=50, evaluations=40, side_by_side=False, compiled=compiled)) == (
        f"this will take about 12 min if nothing else runs here (updates {told}ironments 1 min, evaluations 1 min)"
    )
