"""The loop and what callbacks do between its rollouts."""

import time

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

import envs.toy
from agents import NonFiniteError, load_checkpoint, save_checkpoint
from envs import from_gymnasium
from tests.helpers import toy_agent
from tests.odd_tasks import Countdown, Says
from tests.states import assert_bit_equal, state_of, undisturbed

STEPS = 40
LOOPS = [{}, {"overlap": False}, {"train_freq": 3, "gradient_steps": 2}]


class AtRollouts(BaseCallback):
    """Calls `act(callback)` between rollouts."""

    def __init__(self, act, start=True, end=True):
        super().__init__()
        self.act, self.start, self.end = act, start, end

    def _on_rollout_start(self):
        if self.start:
            self.act(self)

    def _on_rollout_end(self):
        if self.end:
            self.act(self)

    def _on_step(self):
        return True


@pytest.mark.parametrize("settings", LOOPS, ids=str)
@pytest.mark.parametrize("kind", ["in-process", "workers"])
def test_a_callback_may_touch_the_environment_between_rollouts(settings, kind):
    seen = []

    def touch(callback):
        env = callback.training_env
        env.set_attr("horizon", env.get_attr("horizon")[0])
        seen.append(env.env_method("optimal_return", indices=-1))

    env = envs.toy.make(num_tasks=2, seed=0, workers=2 if kind == "workers" else 0)
    agent = toy_agent(env, **settings)
    agent.learn(2 * STEPS, callback=AtRollouts(touch))
    assert len(seen) >= 2 * (STEPS // 3)
    found = state_of(agent, env)
    env.close()
    assert_bit_equal(found, undisturbed("in-process", STEPS, **settings))


@pytest.mark.parametrize("settings", LOOPS, ids=str)
def test_what_a_callback_changes_holds_from_the_same_step_on_however_slow_the_environment(settings, monkeypatch):
    def shorten(callback):
        if callback.model.steps_per_task == 12:
            callback.training_env.set_attr("horizon", 4)

    step, states = envs.toy.PointReach.step, []
    for seconds in (0, 0.001):
        monkeypatch.setattr(envs.toy.PointReach, "step", lambda *args, s=seconds: (time.sleep(s), step(*args))[1])
        agent = toy_agent(**settings)
        agent.learn(2 * STEPS, callback=AtRollouts(shorten))
        states.append(state_of(agent, agent.env))
        assert min(e[2] for e in agent.task_metrics.episodes[0]) == 4
    assert_bit_equal(*states)


@pytest.mark.parametrize("settings", LOOPS, ids=str)
def test_a_checkpoint_from_the_end_of_a_rollout(settings, tmp_path):
    def save(callback):
        if callback.model.steps_per_task == 27:
            save_checkpoint(tmp_path, callback.model, callback.training_env)

    toy_agent(**settings).learn(2 * 33, callback=AtRollouts(save, start=False))
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(tmp_path / "step_000000027", env, device="cpu")
    resumed.learn(2 * (STEPS - 27), reset_num_timesteps=False)
    assert_bit_equal(state_of(resumed, env), undisturbed("in-process", STEPS, **settings))


def test_a_checkpoint_before_a_step_is_stored_is_refused(tmp_path):
    def save(callback):
        if callback.model.steps_per_task == 27:
            save_checkpoint(tmp_path, callback.model, callback.training_env)

    with pytest.raises(RuntimeError, match=r"save in a callback's _on_step"):
        toy_agent().learn(2 * 33, callback=AtRollouts(save, end=False))


def test_learning_never_ends_well_with_numbers_that_are_not_finite():
    env = from_gymnasium([lambda: Says(reward=float("nan")), lambda: Says(reward=1.0)], ["broken", "whole"])
    with pytest.raises(NonFiniteError, match="broken"):
        toy_agent(env, ent_coef=0.1).learn(2 * 30)  # ten updates: before the first regular look


def test_runs_without_a_seed_differ_unless_numpy_is_seeded():
    def streams(seed):
        if seed is not None:
            np.random.seed(seed)
        agent = toy_agent(seed=None)
        return agent.replay_buffer.generator.initial_seed(), agent.aggregator.seed

    assert not set(streams(None)) & set(streams(None))
    assert streams(5) == streams(5)


class Jams(Countdown):
    """After its seventh step it moves only when it has been reset."""

    steps, jammed = 0, False

    def reset(self, **options):
        self.jammed = False
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        self.jammed |= self.steps == 7
        if self.jammed:
            raise ZeroDivisionError("jammed")
        return super().step(action)


@pytest.mark.parametrize("overlap", [True, False])
def test_learning_goes_on_with_a_reset_after_an_environment_failed(overlap):
    env = from_gymnasium([lambda: Jams("terminated"), lambda: Countdown("terminated")], ["jams", "runs"])
    agent = toy_agent(env, overlap=overlap)
    with pytest.raises(ZeroDivisionError, match="jammed"):
        agent.learn(2 * 30)
    assert agent.steps_per_task == 6
    agent.learn(2 * 30, reset_num_timesteps=False)
    assert agent.steps_per_task == agent.replay_buffer.size() == 36
    for _ in range(2):  # as for who steps it without an agent
        assert env.reset()[:, 0].tolist() == [3, 3]
        env.step_async(np.zeros((2, 1)))
    env.close()
