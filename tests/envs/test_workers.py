import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.columns import TaskSpec
from envs.vec_env import TaskVecEnv
from tests.runs import alive, all_gone, libraries

ROOT = Path(__file__).parents[2]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def faulty(*faults, workers=2, **of_pool):
    specs = [TaskSpec(f"task-{fault}", "tests.faulty_tasks:Faulty", {"fault": fault}) for fault in faults]
    return TaskVecEnv.from_specs(specs, workers=workers, **of_pool)


def test_workers_have_no_torch_and_leave_signals_to_the_trainer():
    env = envs.make("custom", 0, tasks=["reach-v3", "push-v3"], workers=2)
    env.reset()
    for pid in env.worker_pids:
        assert "libmujoco" in libraries(pid)
        assert "libtorch" not in libraries(pid)
    for number in STOPS:
        for pid in env.worker_pids:
            os.kill(pid, number)
    env.step(np.zeros((2, 4)))
    pids = env.worker_pids
    env.close()
    assert all_gone(pids)


def test_a_signal_to_all_does_not_kill_a_worker_that_just_begins(monkeypatch):
    begin = subprocess.Popen

    def begin_and_signal(*args, **kwargs):
        process = begin(*args, **kwargs)
        for number in STOPS:
            process.send_signal(number)
        return process

    monkeypatch.setattr(subprocess, "Popen", begin_and_signal)
    env = envs.make("toy", 0, workers=1)
    env.reset()
    env.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])  # the trainer itself hears them


def test_a_step_is_given_its_time_and_a_reset_after_it_a_resets():
    env = faulty("none", "slow-reset", step_timeout=3.0)
    env.reset()
    for _ in range(4):
        env.step(np.zeros((2, 1)))
    env.close()


def test_a_step_that_hangs_after_a_reset_is_a_step():
    specs = [TaskSpec("task", "tests.faulty_tasks:Faulty", {"fault": "hang", "at": 4})]
    env = TaskVecEnv.from_specs(specs, workers=1)
    env.reset()
    for _ in range(3):
        env.step(np.zeros((1, 1)))
    env._crew._step_timeout = 0.5
    with pytest.raises(envs.WorkerError, match=r"did not answer within 0.5 s"):
        env.step(np.zeros((1, 1)))


STOPPED = """
from envs.columns import TaskSpec
from envs.workers.pool import Pool
pool = Pool([TaskSpec("slow", "tests.faulty_tasks:Faulty", {"fault": "slow", "at": 1})], 1, step_timeout=4.0)
pool.reset([0], [{}], [None])
pool.step_async()
print(flush=True)
pool.step_wait()
"""


def test_time_in_which_all_are_stopped_does_not_count():
    """Ctrl-Z and fg, a suspended job, a paused container."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    trainer.stdout.readline()
    time.sleep(0.2)  # it waits for the slow one
    os.killpg(trainer.pid, signal.SIGSTOP)
    time.sleep(4.5)
    os.killpg(trainer.pid, signal.SIGCONT)
    trainer.communicate(timeout=60)
    assert trainer.returncode == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "(?s)at task-raise, raised an error:.*the floor is lava"),
        ("die", "at task-die, was killed by SIGKILL"),
        ("hang", "at task-hang, did not answer within 3 s"),
    ],
)
def test_a_failing_worker_names_the_task_and_leaves_nobody_behind(fault, message):
    env = faulty("none", "none", "none", fault)
    env.reset()
    pids = env.worker_pids
    env.step(np.zeros((4, 1)))
    env._crew._step_timeout = 3.0 if fault == "hang" else 60.0
    env.step_async(np.zeros((4, 1)))
    with pytest.raises(envs.WorkerError, match=message):
        env.step_wait()
    assert all_gone(pids)
    with pytest.raises(envs.WorkerError, match="create a new environment"):
        env.step_wait()
    env.close()


def test_a_task_that_cannot_be_built_is_named():
    specs = [
        TaskSpec("fine", "tests.odd_tasks:Countdown", {"ending": "truncated"}),
        TaskSpec("broken", "tests.faulty_tasks:Unbuildable"),
    ]
    with pytest.raises(envs.WorkerError, match=r"(?s)at broken, .*no such model"):
        TaskVecEnv.from_specs(specs, workers=1)


def test_a_task_that_cannot_be_built_in_this_process_leaves_no_worker_behind(monkeypatch):
    started = []
    start = subprocess.Popen
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    specs = [
        TaskSpec("fine", "tests.odd_tasks:Countdown", {"ending": "truncated"}),
        TaskSpec("broken", "tests.faulty_tasks:Unbuildable"),
    ]
    with pytest.raises(ValueError, match="no such model"):
        TaskVecEnv.from_specs(specs, workers=1, takes_share=True)
    assert all_gone([process.pid for process in started])


def test_after_an_error_in_this_process_s_share_a_reset_begins_anew():
    env = faulty("none", "raise", takes_share=True, workers=1)
    first = env.reset()
    env.step(np.zeros((2, 1)))
    with pytest.raises(ZeroDivisionError) as error:
        env.step(np.zeros((2, 1)))
    assert error.value.__notes__ == ["in task 'task-raise'"]
    assert np.array_equal(env.reset(), first)
    assert env.step(np.zeros((2, 1)))[0].shape == first.shape
    env.close()


@pytest.mark.parametrize(("workers", "own"), [(1, 1), (2, 1), (3, 0)])
def test_the_workers_leave_this_process_a_share_if_they_can(workers, own):
    env = faulty("none", "none", "none", workers=workers, takes_share=True)
    pids = env.env_method("process")
    assert pids.count(os.getpid()) == own
    assert set(pids) - {os.getpid()} == set(env.worker_pids)
    env.close()


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
    trainer.communicate(timeout=60)
    assert all_gone(pids)
