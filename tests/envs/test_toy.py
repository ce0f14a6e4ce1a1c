import math

import numpy as np
import pytest

import envs
from envs import toy
from tests.odd_tasks import Countdown


def run(env, policy):
    """Play one episode; return the sum of rewards and the success of each step."""
    observation, _ = env.reset(seed=3)
    total, successes, over = 0.0, [], False
    while not over:
        observation, reward, terminated, over, info = env.step(policy(observation))
        assert not terminated
        total += reward
        successes.append(info["success"])
    return total, successes


@pytest.mark.parametrize("index", range(3))
def test_optimal_actions_earn_the_optimal_return_and_succeed(index):
    env = toy.PointReach(index, num_tasks=3, conflict=0.7)
    env.reset(seed=3)
    expected = env.optimal_return()
    total, successes = run(env, env.optimal_action)
    assert total == pytest.approx(expected, abs=1e-4)  # actions are float32
    assert successes[0] == 0.0
    assert successes[-1] == 1.0


def test_no_random_policy_beats_the_optimum():
    env = toy.PointReach(1, num_tasks=3, conflict=0.7)
    env.reset(seed=3)
    best = env.optimal_return()
    rng = np.random.default_rng(0)
    for noise in np.linspace(0.01, 1, 20):
        total, _ = run(env, lambda o, n=noise: np.clip(env.optimal_action(o) + rng.normal(0, n, 2), -1, 1))
        assert total < best


def test_the_dial_goes_from_one_goal_to_opposite_goals():
    def goals(conflict):
        return [toy.PointReach(i, 2, conflict).goal for i in range(2)]

    assert np.array_equal(*goals(0.0))
    first, second = goals(1.0)
    assert first == pytest.approx(-second)
    between = goals(0.5)
    assert np.dot(*between) == pytest.approx(math.cos(math.pi / 2))


def test_make_names_tasks_and_hides_the_goal():
    env = envs.make("toy", 0, workers=0, tasks=["point-0", "point-1", "point-2"])
    assert env.task_names == ("point-0", "point-1", "point-2")
    assert env.observation_space.shape == (2 + 3,)
    assert np.array_equal(env.reset()[:, 2:], np.eye(3))
    assert {name: goal.shape for name, goal in env.goals.items()} == dict.fromkeys(env.task_names, (1, 2))


def test_seeds_decide_the_starts():
    first, same, other = (toy.make(seed=seed).reset() for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert len(np.unique(first[:, 0])) == 4, "tasks start apart"


def test_snapshot_and_restore_repeat_the_rest_of_the_run():
    env = toy.make(seed=2, horizon=6)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 4, 2)).astype(np.float32)
    for action in actions[:8]:
        env.step(action)
    state = env.get_state()
    expected = [env.step(action)[:3] for action in actions[8:]]
    again = toy.make(seed=99, horizon=6)
    again.set_state(state)
    for action, want in zip(actions[8:], expected, strict=True):
        for a, b in zip(again.step(action)[:3], want, strict=True):
            assert np.array_equal(a, b)


def test_countdown_is_what_it_says():
    for ending, expected in (("terminated", (True, False)), ("truncated", (False, True))):
        env = Countdown(ending)
        assert env.reset()[0] == [3.0]
        steps = [env.step(np.zeros(1)) for _ in range(3)]
        assert [(float(o[0]), r, i["success"]) for o, r, _, _, i in steps] == [(2, 1, 0), (1, 2, 1), (0, 3, 0)]
        assert [step[2:4] for step in steps] == [(False, False), (False, False), expected]


@pytest.mark.parametrize("bad", [{"num_tasks": 0}, {"conflict": 1.5}, {"horizon": 0}])
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError, match="expected num_tasks >= 1"):
        toy.make(**bad)
