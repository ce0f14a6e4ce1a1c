from functools import cache

import metaworld
import numpy as np
import pytest

import envs
from envs.meta_world import suites
from envs.meta_world.task import MetaWorldTask


@cache
def goals_of(name, seed=0):
    return suites.goal_vectors([name], "MT1", seed)[name]


def actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def test_all_fifty_tasks_build_and_step(monkeypatch):
    monkeypatch.setattr(suites, "NUM_GOALS", 1)  # drawing fifty for each takes longest
    goals = suites.goal_vectors(metaworld.MT1.ENV_NAMES, "MT50", 0)
    for reward_version in ("v2", "v1"):
        env = envs.make("MT50", 0, workers=0, reward_version=reward_version, goals=goals, horizon=3)
        observations = [env.reset()]
        rewards = []
        for action in actions(3):
            observation, reward, dones, _ = env.step(np.tile(action, (50, 1)))
            observations.append(observation)
            rewards.append(reward)
        env.close()
        assert env.task_names == tuple(metaworld.MT1.ENV_NAMES)
        assert dones.all()
        assert np.isfinite(observations).all()
        assert np.isfinite(rewards).all()
        assert np.any(rewards, axis=0).sum() >= 45, "nearly every task pays something"
        if reward_version == "v2":
            assert 0 <= np.min(rewards) <= np.max(rewards) <= 10
        else:
            assert np.min(rewards) < 0


def test_numbers_are_metaworlds_own():
    benchmark = metaworld.MT1("push-v3", seed=4)
    theirs = benchmark.train_classes["push-v3"]()
    theirs.set_task(benchmark.train_tasks[0])
    ours = MetaWorldTask("push-v3", goals_of("push-v3", 4), goal_order="sequential")
    expected, _ = theirs.reset()
    found, _ = ours.reset(seed=0)
    assert np.array_equal(found, expected.astype(np.float32))
    for action in actions(20):
        expected, reward, _, _, info = theirs.step(action)
        found, *rest = ours.step(action)
        assert np.array_equal(found, expected.astype(np.float32))
        assert rest == [float(reward), False, False, {"success": info["success"]}]


def test_observations_outside_metaworlds_bounds_are_kept():
    task = MetaWorldTask("reach-v3", goals_of("reach-v3"))
    observation, _ = task.reset(seed=0)
    bounds = task._env.observation_space  # zero for the goal
    assert not bounds.contains(observation.astype(np.float64))
    assert task.observation_space.contains(observation)
    assert observation[36:].any(), "the goal is observed"


@pytest.mark.parametrize("name", ["reach-v3", "push-v3", "drawer-open-v3"])
def test_first_observation_holds_no_frame_of_the_last_episode(name):
    task = MetaWorldTask(name, goals_of(name), horizon=10)
    task.reset(seed=0)
    for action in actions(10):
        last, _, _, truncated, _ = task.step(action)
    assert truncated
    first, _ = task.reset()
    assert np.array_equal(first[:18], first[18:36])
    assert not np.array_equal(first[18:36], last[18:36])


def visits(task, resets):
    """Reset `resets` times; return which goals were visited."""
    return [task.reset()[0] is not None and task.snapshot()["goal"] for _ in range(resets)]


def test_sequential_visits_each_goal_once_from_the_first_at_a_restart():
    task = MetaWorldTask("reach-v3", goals_of("reach-v3")[:4], goal_order="sequential")
    assert visits(task, 6) == [0, 1, 2, 3, 0, 1]
    task.restart()
    assert visits(task, 2) == [0, 1]


def test_random_goals_depend_on_the_seed_only():
    def order(seed):
        task = MetaWorldTask("reach-v3", goals_of("reach-v3"))
        task.reset(seed=seed)
        return visits(task, 8)

    assert order(1) == order(1)
    assert order(1) != order(2)


# Those whose reset writes into the model, and one for each kind of object.
@pytest.mark.parametrize(
    "name", ["door-open-v3", "shelf-place-v3", "box-close-v3", "stick-pull-v3", "peg-insert-side-v3"]
)
@pytest.mark.parametrize("reward_version", ["v1", "v2"])
def test_restore_repeats_the_episode_bit_for_bit(name, reward_version):
    def play(task, chosen):
        return [(o.tobytes(), r, i["success"]) for o, r, _, _, i in map(task.step, chosen)]

    task = MetaWorldTask(name, goals_of(name)[:5], reward_version)
    task.reset(seed=0)
    play(task, actions(60))
    task.reset()  # an episode lies behind us, and with it whatever it left in the simulator
    play(task, actions(40, seed=1))
    state = task.snapshot()
    expected = play(task, actions(30, seed=2)), task.reset()[0].tobytes(), play(task, actions(5))
    other = MetaWorldTask(name, goals_of(name)[:5], reward_version)
    other.restore(state)
    assert (play(other, actions(30, seed=2)), other.reset()[0].tobytes(), play(other, actions(5))) == expected


def test_actions_of_another_type_are_played_again_bit_for_bit():
    task = MetaWorldTask("push-v3", goals_of("push-v3")[:5])
    task.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 4)):  # float64
        last = task.step(action)[0]
    assert np.array_equal(MetaWorldTask("push-v3", goals_of("push-v3")[:5]).restore(task.snapshot()), last)


def test_restore_with_too_few_goals_says_so():
    task = MetaWorldTask("reach-v3", goals_of("reach-v3")[:3], goal_order="sequential")
    visits(task, 3)
    state = task.snapshot()
    with pytest.raises(ValueError, match="expected a goal below 1, found 2"):
        MetaWorldTask("reach-v3", goals_of("reach-v3")[:1]).restore(state)


def test_a_refused_action_is_not_played_again():
    env = MetaWorldTask("reach-v3", goals_of("reach-v3")[:1])
    env.reset(seed=0)
    observation = env.step(np.zeros(4))[0]
    with pytest.raises(AssertionError):
        env.step(np.zeros(3))
    assert np.array_equal(env.restore(env.snapshot()), observation)
