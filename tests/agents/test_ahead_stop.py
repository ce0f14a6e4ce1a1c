"""Collecting ahead, when something ends: errors come to the learner, nothing hangs, and nobody is left behind."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback

import numpy as np
import pytest
from stable_baselines3.common.noise import NormalActionNoise

import envs
import envs.toy
from agents import MTSAC, load_checkpoint, save_checkpoint
from envs.columns import TaskSpec
from envs.vec_env import TaskVecEnv
from tests.helpers import SMALL, toy_agent
from tests.runs import all_gone, wait_until

AT = 12  # the step that fails


@contextlib.contextmanager
def in_time(seconds=300):
    """An error instead of a wait for ever; far more than any of these takes."""

    def ring(*_):
        raise AssertionError(f"nothing happened for {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def nobody_left(agent, failed=False):
    assert not [thread for thread in threading.enumerate() if thread.name == "collector"]
    assert not agent.collection.collector.running
    assert failed or not agent.env._pending  # a step that failed is not over


def faulty_agent(fault, workers, **settings):
    specs = [
        TaskSpec(f"task-{kind}", "tests.faulty_tasks:Faulty", {"fault": kind, "at": AT}) for kind in ("none", fault)
    ]
    env = TaskVecEnv.from_specs(specs, workers=workers, step_timeout=5.0 if fault == "hang" else 60.0)
    settings = {"learning_starts": 10, "batch_size": 4, "policy_kwargs": SMALL, "device": "cpu", **settings}
    return MTSAC("MultiTaskMlpPolicy", env, "mean", collect_ahead=4, **settings)


@pytest.mark.parametrize(
    ("fault", "workers", "error", "message"),
    [
        ("raise", 0, ZeroDivisionError, "the floor is lava"),
        ("raise", 2, envs.WorkerError, "(?s)at task-raise, raised an error:.*the floor is lava"),
        ("die", 2, envs.WorkerError, "at task-die, was killed by SIGKILL"),
        ("hang", 2, envs.WorkerError, "at task-hang, did not answer within 5 s"),
    ],
)
def test_an_error_of_the_environment_is_the_learners_after_the_steps_before_it(fault, workers, error, message):
    agent = faulty_agent(fault, workers)
    pids = agent.env.worker_pids
    with in_time(), pytest.raises(error, match=message) as caught:
        agent.learn(2 * 50)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "_run" in frames  # of the thread
    assert "take" in frames  # of the learner
    if not workers:
        assert "_misbehave" in frames
        assert caught.value.__notes__ == ["in task 'task-raise'"]
    assert agent.num_timesteps == 2 * (AT - 1)
    assert agent._n_updates == AT - 1 - 5
    nobody_left(agent, failed=True)
    assert all_gone(pids)
    agent.env.close()


def test_after_an_error_learning_begins_with_a_reset():
    agent = faulty_agent("raise", 0)
    with in_time():
        with pytest.raises(ZeroDivisionError):
            agent.learn(2 * 50)
        assert agent._last_obs is None
        agent.learn(2 * 20, reset_num_timesteps=False)  # the task fails once
    assert agent.num_timesteps == 2 * (AT - 1 + 20)
    nobody_left(agent)


def test_an_error_ahead_of_a_checkpoint_comes_there(tmp_path):
    """The state that a checkpoint holds is that of an environment N steps ahead: there is none."""
    agent = faulty_agent("raise", 0)

    def save(*_):
        if agent.num_timesteps == 2 * (AT - 3):
            save_checkpoint(tmp_path, agent, agent.env)
        return True

    with in_time(), pytest.raises(ZeroDivisionError):
        agent.learn(2 * 50, callback=save)
    assert agent.num_timesteps == 2 * (AT - 3)
    assert not list(tmp_path.iterdir())
    nobody_left(agent, failed=True)


def test_an_error_beyond_the_end_is_never_made():
    agent = faulty_agent("raise", 0)
    with in_time():
        agent.learn(2 * (AT - 1))
    assert agent.num_timesteps == 2 * (AT - 1)


def raising(error, at):
    def callback(*_, **__):
        if callback.agent.num_timesteps == 2 * at:
            raise error
        return True

    return callback


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), RuntimeError("mine")], ids=repr)
def test_whatever_ends_the_learner_ends_the_collector(error):
    agent, callback = toy_agent(collect_ahead=4), raising(error, at=25)
    callback.agent = agent
    with in_time(), pytest.raises(type(error)):
        agent.learn(2 * 50, callback=callback)
    nobody_left(agent)
    agent.learn(2 * 10, reset_num_timesteps=False)
    assert agent.num_timesteps == 2 * 35


def test_an_error_in_the_update():
    agent = toy_agent(collect_ahead=4)
    agent.train = raising(FloatingPointError("nan"), at=30)
    agent.train.agent = agent
    with in_time(), pytest.raises(FloatingPointError):
        agent.learn(2 * 50)
    nobody_left(agent)


@pytest.mark.parametrize("busy", ["learner", "environment"])
def test_ctrl_c_while_one_waits_for_the_other(busy, monkeypatch):
    """A signal comes to the main thread: while it waits for a step, or while the collector waits at its bound."""
    agent, whole = toy_agent(collect_ahead=2, learning_starts=0), envs.toy.PointReach.step
    sent = []

    def slow_step(self, action):
        if agent.num_timesteps >= 2 * 20 and not sent:
            time.sleep(0.2)  # the learner takes what there is, and waits for this step
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return whole(self, action)

    def slow_learner(*_):
        if agent.num_timesteps == 2 * 20:
            agent.settle()
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return True

    if busy == "environment":
        monkeypatch.setattr(envs.toy.PointReach, "step", slow_step)
    callback = slow_learner if busy == "learner" else None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with in_time(), pytest.raises(KeyboardInterrupt):
            agent.learn(2 * 50, callback=callback)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent
    nobody_left(agent)
    agent.learn(2 * 5)
    assert agent.num_timesteps == 10


def test_the_collector_sleeps_at_its_bound():
    agent, asleep = toy_agent(collect_ahead=2), []

    def look(*_):
        if agent.num_timesteps == 2 * 25:
            agent.settle()
            (thread,) = (thread for thread in threading.enumerate() if thread.name == "collector")
            wait_until(lambda: sys._current_frames()[thread.ident].f_code is threading.Condition.wait.__code__)
            asleep.append(thread)
        return True

    agent.learn(2 * 30, callback=look)
    assert asleep


# ----------------------------------------------------------------------------------------------------------- bad input
def test_a_lag_below_zero():
    with pytest.raises(ValueError, match="collect_ahead: expected 0 or more; found -1"):
        toy_agent(collect_ahead=-1)


def test_noise_that_somebody_adds_is_refused():
    agent = toy_agent(collect_ahead=2)
    agent.action_noise = NormalActionNoise(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="expected no action_noise"):
        agent.learn(2 * 30)
    agent.action_noise = None
    agent.learn(2 * 5)
    nobody_left(agent)


def test_a_checkpoint_goes_on_with_its_own_lag(tmp_path):
    agent = toy_agent(collect_ahead=2)
    agent.learn(2 * 5)
    path = save_checkpoint(tmp_path, agent, agent.env)
    for changed, expected in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match=f"expected collect_ahead={expected}, .*; found {changed}"):
            load_checkpoint(path, envs.toy.make(num_tasks=2, seed=0), collect_ahead=changed)
    plain = toy_agent()
    plain.learn(2 * 6)
    path = save_checkpoint(tmp_path, plain, plain.env)
    with pytest.raises(ValueError, match=r"expected collect_ahead=0, .*; found 2"):
        load_checkpoint(path, envs.toy.make(num_tasks=2, seed=0), collect_ahead=2)
