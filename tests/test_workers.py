import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.columns import TaskSpec
from envs.vec_env import TaskVecEnv
from tests.runs import alive, all_gone

ROOT = Path(__file__).parent.parent


def faulty(*faults, workers=2, **timeouts):
    specs = [TaskSpec(f"task-{fault}", "tests.faulty_tasks:Faulty", {"fault": fault}) for fault in faults]
    return TaskVecEnv.from_specs(specs, workers=workers, **timeouts)


def test_workers_have_no_torch_and_ignore_ctrl_c():
    env = envs.make("custom", 0, tasks=["reach-v3", "push-v3"], workers=2)
    env.reset()
    for modules in env.worker_modules():
        assert "metaworld" in modules
        assert not modules & {"torch", "stable_baselines3", "mtrl", "agents"}
    for pid in env.worker_pids:
        os.kill(pid, signal.SIGINT)
    env.step(np.zeros((2, 4)))
    pids = env.worker_pids
    env.close()
    assert all_gone(pids)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "(?s)at task-raise, raised an error:.*the floor is lava"),
        ("die", "at task-die, was killed by SIGKILL"),
        ("hang", "at task-hang, did not answer within 3 s"),
    ],
)
def test_a_failing_worker_names_the_task_and_leaves_nobody_behind(fault, message):
    env = faulty("none", "none", "none", fault, step_timeout=3.0)
    env.reset()
    pids = env.worker_pids
    env.step(np.zeros((4, 1)))
    env.step_async(np.zeros((4, 1)))
    with pytest.raises(envs.WorkerError, match=message):
        env.step_wait()
    assert all_gone(pids)
    with pytest.raises(envs.WorkerError, match="build the environment anew"):
        env.step_wait()
    env.close()


def test_a_task_that_cannot_be_built_is_named():
    specs = [
        TaskSpec("fine", "envs.toy:Countdown", {"ending": "truncated"}),
        TaskSpec("broken", "tests.faulty_tasks:Unbuildable"),
    ]
    with pytest.raises(envs.WorkerError, match=r"(?s)at broken, .*no such model"):
        TaskVecEnv.from_specs(specs, workers=1)


def test_an_error_in_this_process_names_the_task():
    specs = [TaskSpec("unlucky", "tests.faulty_tasks:Faulty", {"fault": "raise"})]
    env = TaskVecEnv.from_specs(specs, workers=0)
    env.reset()
    env.step(np.zeros((1, 1)))
    with pytest.raises(ZeroDivisionError) as error:
        env.step(np.zeros((1, 1)))
    assert error.value.__notes__ == ["in task 'unlucky'"]


def test_an_interrupted_wait_loses_nothing(monkeypatch):
    env, calm = (faulty("none", "none", workers=workers) for workers in (2, 0))
    env.reset()
    calm.reset()
    env.step_async(np.zeros((2, 1)))
    with monkeypatch.context() as patch:
        patch.setattr(env._crew, "_gather", lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step_wait()
    calm.step_async(np.zeros((2, 1)))
    assert env.step_wait()[0].tolist() == calm.step_wait()[0].tolist()
    env.close()


def test_workers_end_when_the_trainer_is_killed():
    code = "from envs import toy; e = toy.make(2, workers=2); e.reset(); print(*e.worker_pids, flush=True); input()"
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    trainer.kill()
    trainer.communicate()
    assert all_gone(pids)
