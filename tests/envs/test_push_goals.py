"""Pushing to goals: where puck and goal are, how they are drawn, and that episodes go on after a restore."""

import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from scipy.stats import kstest

import envs
from envs.benchmarks import TaskOptions
from envs.meta_world import suites
from envs.meta_world.push_goals import NEAREST, PLACES, PushToGoal, draw, task_set

SPACE = ALL_V3_ENVIRONMENTS["push-v3"]()._random_reset_space
GOALS = draw(np.random.default_rng(3), 4, SPACE)


def make(goal_order="random", **options):
    return PushToGoal(GOALS, goal_order=goal_order, horizon=5, **options)


def actions(count, columns=None):
    shape = (count, 4) if columns is None else (count, columns, 4)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_goals_are_drawn_as_metaworld_draws_them():
    """Its own draws of push-v3: in range, none twice, and column by column of one distribution."""
    ours, theirs = draw(np.random.default_rng(0), 3000, SPACE), suites.goal_vectors(["push-v3"], "MT1", 0)["push-v3"]
    assert ((SPACE.low <= ours) & (ours <= SPACE.high)).all()
    assert np.linalg.norm(ours[:, :2] - ours[:, 3:5], axis=1).min() >= NEAREST
    assert len(np.unique(ours, axis=0)) == 3000
    varying = [i for i in range(6) if np.ptp(theirs[:, i]) > 0]
    assert min(kstest(theirs[:, i], ours[:, i]).pvalue for i in varying) > 0.01


def test_the_observation_has_z_as_the_simulator_has_it():
    task = make("sequential")
    for z in GOALS:
        first = task.reset()[0]
        assert (first.shape, first.dtype) == ((42,), np.float32)
        assert np.array_equal(first[-6:-4], z[:2].astype(np.float32))
        assert np.array_equal(first[-3:-1], z[3:5].astype(np.float32))
        assert np.array_equal(first[-3:], task._env._target_pos.astype(np.float32))
        assert np.abs(first[4:7] - first[-6:-3]).max() < 0.01, "the puck is there, and settles a little"
        last = [task.step(action)[0] for action in actions(5)][-1]
        assert np.array_equal(last[-6:], first[-6:]), "all the episode long"


def test_the_distance_is_that_of_the_puck_to_the_goal_in_the_simulator():
    task = make()
    task.reset(seed=0)
    for action in actions(5):
        info = task.step(action)[4]
        expected = np.linalg.norm(task._env.data.body("obj").xpos - task._env.model.site("goal").pos)
        assert info["goal_distance"] == pytest.approx(expected, abs=1e-6)


def test_training_draws_a_new_goal_for_each_episode_and_an_evaluation_visits_its_own():
    env = envs.make("push-goals", 0, workers=0, horizon=1, goals=4, tasks=["goal-1", "goal-2"])
    seen = np.array([env.reset()[:, -8:-2], *(env.step(step)[0][:, -8:-2] for step in actions(9, 2))])
    env.close()
    assert len(np.unique(seen.reshape(-1, 6), axis=0)) == 20
    fixed = envs.make("push-goals", 0, workers=0, horizon=1, goals=env.goals, tasks=["goal-1"], goal_order="sequential")
    visited = [fixed.reset()[0, -7:-1], *(fixed.step(step)[0][0, -7:-1] for step in actions(7, 1))]
    fixed.close()
    expected = np.tile(env.goals["goal-1"].astype(np.float32), (2, 1))
    assert np.array_equal(np.array(visited)[:, [0, 1, 3, 4]], expected[:, [0, 1, 3, 4]])


def test_evaluations_of_one_seed_have_the_same_goals_and_of_another_others():
    first, again, other = (task_set(TaskOptions("push-goals", None, seed, 3, 5)).goals for seed in (0, 0, 1))
    assert list(first) == list(PLACES)
    assert all(np.array_equal(first[name], again[name]) for name in PLACES)
    assert len(np.unique(np.concatenate([*first.values(), *other.values()]), axis=0)) == 54
    alone = task_set(TaskOptions("push-goals", ["goal-7"], 0, 3, 5)).goals
    assert np.array_equal(alone["goal-7"], first["goal-7"])


def test_an_episode_goes_on_bit_for_bit_and_so_do_the_goals_after_it():
    first, second = make(), make()
    first.reset(seed=4)
    second.reset(seed=5)
    for action in actions(3):
        observation = first.step(action)[0]
    assert np.array_equal(second.restore(first.snapshot()), observation)
    for action in actions(2):
        assert np.array_equal(first.step(action)[0], second.step(action)[0])
    assert np.array_equal(first.reset()[0], second.reset()[0])
    assert np.array_equal(second.restore(first.snapshot()), first._begin()), "at the beginning of an episode, too"


def test_workers_give_the_same_numbers():
    given = {"goals": 2, "horizon": 2, "tasks": ["goal-1", "goal-2"]}
    one, two = (envs.make("push-goals", 0, workers=workers, **given) for workers in (0, 1))
    assert np.array_equal(one.reset(), two.reset())
    for step in actions(5, 2):
        assert np.array_equal(one.step(step)[0], two.step(step)[0])
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["goal-10"]}, r"expected one of 9 tasks \(goal-1 ... goal-9\), found 'goal-10'"),
        ({"goals": 0}, "expected goals to be a whole number of at least 1, found 0"),
        ({"goals": {"goal-1": GOALS}}, "expected goals for every task, found none for goal-2, "),
        ({"goals": {"goal-1": GOALS[:, :3]}, "tasks": ["goal-1"]}, r"push-v3: expected goals of 6 numbers each, found"),
        ({"horizon": 501}, "expected a horizon of 1 to 500 steps, found 501"),
    ],
)
def test_bad_input_is_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make("push-goals", 0, **{"workers": 0, **options})
    assert "\n" not in str(error.value)
