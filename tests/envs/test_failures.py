"""A training that breaks down names the task, keeps its last good checkpoint, and leaves a post-mortem and nobody."""

import json

import numpy as np
import pytest

from agents import NonFiniteError
from envs import WorkerError
from envs.columns import TaskSpec
from envs.meta_world.suites import goal_vectors
from envs.meta_world.task import MetaWorldTask
from envs.vec_env import TaskVecEnv
from scripts import train
from scripts.runs import Run, starting
from tests.runs import all_gone

SHORT = (
    "--steps-per-task 200 --warmup-steps 10 --checkpoint-every 20 --eval-every 0 --final-goals 1 --eval-goals 1".split()
)
SHORT += "--eval-goals 1 --actor-width 8 --critic-width 8 --batch-size 4 --log-every 5 --no-progress".split()


def faulty_run(monkeypatch, path, fault, workers):
    """Train on two tasks, the second of which fails at step 50; return the process ids of all workers."""
    pids = []

    def make_env(config, goals, goal_order="random"):
        faults = ["none", "none" if goal_order == "sequential" else fault]
        names = ["point-0", "point-1"]
        specs = [
            TaskSpec(name, "tests.faulty_tasks:Faulty", {"fault": kind, "at": 50})
            for name, kind in zip(names, faults, strict=True)
        ]
        env = TaskVecEnv.from_specs(specs, workers=workers, step_timeout=5.0 if fault == "hang" else 60.0)
        pids.extend(env.worker_pids)
        return env

    monkeypatch.setattr(starting, "make_env", make_env)
    train.main(["toy", *SHORT, "--run-dir", str(path)])
    return pids


@pytest.mark.parametrize(
    ("fault", "workers", "error", "message"),
    [
        ("raise", 2, WorkerError, "(?s)at point-1, raised an error:.*the floor is lava"),
        ("die", 2, WorkerError, "at point-1, was killed by SIGKILL"),
        ("hang", 2, WorkerError, "at point-1, did not answer within 5 s"),
        ("raise", 0, ZeroDivisionError, "(?s)the floor is lava"),
        ("exit", 0, RuntimeError, r"task 'point-1' ended the program: SystemExit\(0\)"),
        ("exit", 2, WorkerError, r"(?s)at point-1, raised an error:.*ended the program: SystemExit\(0\)"),
        ("nan", 0, NonFiniteError, "critic loss of task point-1 became non-finite .*gave rewards that are not finite"),
        ("huge", 0, NonFiniteError, "critic loss of task point-1 became non-finite .*beyond 1e"),
    ],
)
def test_a_failure_is_named_and_the_last_good_checkpoint_stays(
    fault, workers, error, message, tmp_path, monkeypatch, capsys
):
    path, pids = tmp_path / "run", []
    monkeypatch.setattr(
        TaskVecEnv, "close", lambda self, close=TaskVecEnv.close: (pids.extend(self.worker_pids), close(self))
    )
    with pytest.raises(error, match=message) as caught:
        faulty_run(monkeypatch, path, fault, workers)
    assert all_gone(pids)
    told = json.loads((path / "postmortem.json").read_text())
    assert told["error"] == error.__name__
    assert "point-1" in told["message"]
    assert told["env_steps_per_task"] >= 49
    assert str(caught.value) in told["message"]
    saved = Run(path).verified().newest_checkpoint()
    assert 40 <= int(saved.name[5:]) <= told["env_steps_per_task"]
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{saved}. Go on from it" in printed
    assert ("--learning-rate" in printed) == (fault == "huge"), "advice for what the settings can help"
    assert not (path / "result.json").exists()


def unstable(task):
    """Let the simulator meet a speed that no arm has."""
    task._env.data.qvel[:] = 1e12
    task.step(np.zeros(4))


def test_instability_of_mujoco_is_counted_by_episode_and_survives_a_restore():
    def make():
        return MetaWorldTask("reach-v3", goal_vectors(["reach-v3"], "custom", 0)["reach-v3"][:2], horizon=5)

    task = make()
    for expected in (0, 1, 2):
        task.reset(seed=0)
        task.step(np.zeros(4))
        assert task.instabilities == expected
        unstable(task)
        unstable(task)
        assert task.instabilities == expected + 1
    task.reset()
    task.step(np.full(4, np.nan))  # a control that is no number, too; this one is played again at restore
    assert task.instabilities == 4
    other = make()
    other.restore(task.snapshot())
    assert other.instabilities == 4


def test_a_run_tells_how_often_mujoco_was_unstable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    steps = MetaWorldTask.step

    def stumbling(task, action):
        task._env.data.qvel[:] = 1e12
        return steps(task, action)

    monkeypatch.setattr(MetaWorldTask, "step", stumbling)
    flags = "mt1 --tasks reach-v3 --steps-per-task 6 --horizon 3 --train-horizon 0 --warmup-steps 3 --goals 1"
    flags += " --eval-goals 1 --final-goals 1 --workers 0 --actor-width 8 --critic-width 8 --batch-size 4 --no-progress"
    flags += " --envs-per-task 1 --run-dir run"
    train.main(flags.split())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["unstable_episodes"] == {"reach-v3": 2}
    assert "became unstable and began anew, in so many training episodes: reach-v3 2" in " ".join(
        capsys.readouterr().out.split()
    )
