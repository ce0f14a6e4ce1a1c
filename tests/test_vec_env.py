import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecEnv

import envs
from envs import suites, toy
from envs.columns import TaskSpec
from envs.machine import cores
from envs.pool import count_workers
from envs.vec_env import TaskVecEnv

TASKS = ["reach-v3", "drawer-close-v3", "door-open-v3"]


@pytest.fixture(scope="module")
def goals():
    return suites.goal_vectors(TASKS, "custom", 0)


@pytest.fixture
def build(goals):
    """Build three tasks of MT10 with a short horizon; close them afterwards."""
    built = []

    def build(workers=0, seed=0, horizon=7, **options):
        given = {"goals": goals} | options
        built.append(envs.make("custom", seed, tasks=TASKS, workers=workers, horizon=horizon, **given))
        return built[-1]

    yield build
    for env in built:
        env.close()


def actions(steps, tasks=3, size=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, tasks, size)).astype(np.float32)


def play(env, chosen):
    """Step through `chosen`; return all that came back, in a form that compares bit for bit."""
    trace = []
    for action in chosen:
        observations, rewards, dones, infos = env.step(action)
        for info in infos:
            if "episode" in info:
                info["terminal_observation"] = info["terminal_observation"].tobytes()
                del info["episode"]["t"]  # the clock's
        trace.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), infos))
    return trace


def countdowns(*endings, workers=0):
    specs = [TaskSpec(f"{i}-{end}", "envs.toy:Countdown", {"ending": end}) for i, end in enumerate(endings)]
    return TaskVecEnv.from_specs(specs, workers=workers)


# Numbers


@pytest.mark.parametrize("options", [{}, {"envs_per_task": 2, "staggered": True}], ids=str)
def test_workers_give_the_same_numbers_as_one_process(build, options):
    one, two = build(workers=0, **options), build(workers=2, **options)
    assert one.reset().tobytes() == two.reset().tobytes()
    chosen = actions(16, one.num_envs)
    assert play(one, chosen) == play(two, chosen), "two ends of episodes included"


def test_one_seed_gives_one_start_and_another_seed_another(build):
    first, same, other = (build(seed=seed, goals=50, workers=w).reset() for seed, w in ((3, 0), (3, 1), (4, 0)))
    assert np.array_equal(first, same)
    assert (first != other).any(axis=1).all(), "every task starts elsewhere"


def test_seeding_again_starts_again(build):
    env = build(seed=3)
    first = env.reset()
    play(env, actions(9))
    env.seed(3)
    assert np.array_equal(env.reset(), first)


def test_observations_end_in_the_tasks_one_hot(build):
    env = build()
    assert isinstance(env, VecEnv)
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (42,), np.float32)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    observations = [env.reset(), *(env.step(action)[0] for action in actions(8))]
    for observation in observations:
        assert observation.dtype == np.float32
        assert np.array_equal(observation[:, -3:], np.eye(3))
        assert env.observation_space.contains(observation[0])


def test_earlier_observations_are_not_overwritten():
    env = toy.make(2)
    first = env.reset()
    before = first.copy()
    env.step(np.ones((2, 2)))
    assert np.array_equal(first, before)


# Episodes


@pytest.mark.parametrize("workers", [0, 2])
def test_countdown_through_both_endings(workers):
    env = countdowns("terminated", "truncated", workers=workers)
    assert env.reset()[:, 0].tolist() == [3, 3]
    for step in range(1, 7):  # two episodes
        observations, rewards, dones, infos = env.step(np.zeros((2, 1)))
        k = (step - 1) % 3 + 1
        assert rewards.tolist() == [k, k]
        assert dones.tolist() == [k == 3, k == 3]
        assert observations[:, 0].tolist() == [3 - k or 3] * 2, "a finished task shows its next start"
        assert [info["success"] for info in infos] == [float(k == 2)] * 2
        assert [info["is_success"] for info in infos] == [k >= 2] * 2
        assert [info["TimeLimit.truncated"] for info in infos] == [False, k == 3]
        assert all(("episode" in info) == ("terminal_observation" in info) == (k == 3) for info in infos)
    for i, info in enumerate(infos):
        assert info["terminal_observation"].tolist() == [0.0, *np.eye(2)[i]], "the true end, not the next start"
        assert (info["episode"]["r"], info["episode"]["l"]) == (6.0, 3)
        assert info["episode"]["t"] >= 0
    env.close()


def test_sequential_episodes_visit_each_goal_once_from_the_first_at_reset(build):
    env = build(goals=4, horizon=1, goal_order="sequential")
    for _ in range(2):
        starts = [env.reset(), *(env.step(action)[0] for action in actions(4))]
        seen = [start[0, 36:39].tobytes() for start in starts]
        assert len(set(seen)) == 4
        assert seen[4] == seen[0]
        expected = [env.goals["reach-v3"][n, 3:].astype(np.float32).tobytes() for n in range(4)]
        assert seen[:4] == expected


# Several environments per task


def test_more_environments_per_task_have_their_own_order_of_the_same_goals(build):
    one, two = build(horizon=2, goals=50), build(horizon=2, goals=50, envs_per_task=2)
    assert (two.num_tasks, two.envs_per_task, two.num_envs, two.task_names) == (3, 2, 6, tuple(TASKS))
    assert (one.envs_per_task, one.num_envs) == (1, 3)
    traces = {one: [one.reset()], two: [two.reset()]}
    for action in actions(30, 6):
        traces[one].append(one.step(action[:3])[0])
        traces[two].append(two.step(action)[0])
    found = np.array(traces[two])
    assert np.array_equal(found[:, :3], np.array(traces[one])), "the first of each task goes the way of the only one"
    assert np.array_equal(found[:, :, -3:], np.broadcast_to(np.tile(np.eye(3), (2, 1)), (31, 6, 3)))
    assert not np.array_equal(found[:, :3], found[:, 3:])
    goals = {vector[3:].astype(np.float32).tobytes() for vector in two.goals["reach-v3"]}
    for column in (0, 3):
        seen = {start.tobytes() for start in found[::2, column, 36:39]}
        assert len(seen) > 8
        assert seen <= goals


def test_seeds_are_of_the_column():
    env = toy.make(2, seed=3, envs_per_task=2)
    expected = [int(np.random.SeedSequence([3, c]).generate_state(1)[0]) for c in range(4)]
    assert env.seed(3) == expected
    assert toy.make(2, seed=3).seed(3) == expected[:2]


@pytest.mark.parametrize(("envs_per_task", "workers"), [(1, 0), (3, 0), (3, 4)])
def test_staggered_first_episodes_end_one_after_the_other(envs_per_task, workers):
    env = envs.make(
        "toy", 0, tasks=toy.names(2), horizon=10, envs_per_task=envs_per_task, staggered=True, workers=workers
    )
    size = 2 * envs_per_task
    for _ in range(2):  # each reset begins anew
        env.reset()
        ends = [[] for _ in range(size)]
        for step in range(1, 31):
            _, _, dones, infos = env.step(np.zeros((size, 2)))
            for column in np.flatnonzero(dones):
                ends[column].append(step)
                assert infos[column]["TimeLimit.truncated"]
                assert infos[column]["episode"]["l"] == np.diff([0, *ends[column]])[-1]
        first = [math.ceil(10 * (column + 1) / size) for column in range(size)]
        assert ends == [[f, f + 10, f + 20] for f in first]
    env.close()


def test_staggering_never_hides_a_termination():
    specs = [TaskSpec("a", "envs.toy:Countdown", {"ending": "terminated"})]
    env = TaskVecEnv.from_specs(specs, workers=0, stagger=3, envs_per_task=3)  # cut after 1, 2 and 3 steps
    env.reset()
    found = [env.step(np.zeros((3, 1))) for _ in range(5)]
    assert [dones.tolist() for _, _, dones, _ in found] == [
        [True, False, False], [False, True, False], [False, False, True], [True, False, False], [False, True, False]
    ]  # fmt: skip
    truncated = [[info["TimeLimit.truncated"] for info in infos] for _, _, _, infos in found]
    assert truncated == [[True, False, False], [False, True, False], *[[False] * 3] * 3]


# State


# In mid-episode, at its end, in the second episode: the horizon is 7. Staggered first episodes end at 2, 3, 4 ... 7.
@pytest.mark.parametrize(
    ("stop", "before", "after", "options"),
    [(4, 2, 0, {}), (7, 0, 0, {}), (10, 0, 2, {}), (4, 2, 0, {"envs_per_task": 2, "staggered": True})],
)
def test_a_restored_environment_goes_on_bit_for_bit(build, stop, before, after, options):
    first, second = build(workers=before, **options), build(workers=after, seed=9, **options)
    first.reset()
    tasks = first.num_envs
    play(first, actions(stop, tasks))
    state = first.get_state()
    observation = second.set_state(state)
    assert play(first, actions(9, tasks, seed=1)) == play(second, actions(9, tasks, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(second.set_state(state), observation), "a state can be used twice"


def test_a_state_is_checked(build):
    env = build()
    with pytest.raises(RuntimeError, match="call reset"):
        env.get_state()
    env.reset()
    state = env.get_state()
    with pytest.raises(ValueError, match=r"expected the state of point-0, .* found that of reach-v3"):
        toy.make(3).set_state(state)
    wrong = {"task_names": state["task_names"], "tasks": [{"observation": np.zeros(2)}] * 3}
    with pytest.raises(ValueError, match="expected a state with 39 numbers per observation, found 2"):
        env.set_state(wrong)
    with pytest.raises(ValueError, match=r"state of 6 columns, found that of 3; .*envs_per_task"):
        toy.make(3, envs_per_task=2).set_state({"task_names": toy.names(3), "tasks": state["tasks"]})
    env.step_async(actions(1)[0])
    with pytest.raises(RuntimeError, match="no pending step at get_state"):
        env.get_state()
    env.step_wait()


def test_a_state_that_does_not_come_back_is_reported():
    env = toy.make(2)
    env.reset()
    state = env.get_state()
    state["tasks"][1]["observation"][0] += 1
    with pytest.warns(UserWarning, match="point-1 did not come back to the saved observation bit for bit"):
        env.set_state(state)


# Any gymnasium environments


def pendulum():
    return TimeLimit(PendulumEnv(), 5)


def test_any_gymnasium_environments_become_tasks():
    env = envs.from_gymnasium([pendulum, pendulum], ["left", "right"], seed=1)
    first = env.reset()
    assert first.shape == (2, 5)
    assert (first[0, :3] != first[1, :3]).any(), "each task has its own seed"
    trace = [env.step(action) for action in actions(5, 2, 1)]
    assert trace[-1][2].all()
    assert trace[-1][3][0]["TimeLimit.truncated"]
    assert env.env_is_wrapped(TimeLimit) == [True, True]
    assert env.env_is_wrapped(gymnasium.wrappers.ClipAction, indices=0) == [False]
    again = envs.from_gymnasium([pendulum, pendulum], ["left", "right"], seed=1)
    with pytest.warns(UserWarning, match="left, right cannot restore their state and began a new episode"):
        observation = again.set_state(env.get_state())
    assert np.array_equal(observation, first), "a new episode, but a seeded one"


def test_spaces_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"found Box.*\(3,\).* at left and Box.*\(1,\).* at right"):
        envs.from_gymnasium([pendulum, lambda: toy.Countdown("terminated")], ["left", "right"])
    with pytest.raises(ValueError, match="one name of its own per environment"):
        envs.from_gymnasium([pendulum, pendulum], ["left", "left"])


# The interface of Stable-Baselines3


@pytest.mark.parametrize("workers", [0, 2])
def test_attributes_and_methods_reach_the_tasks(workers):
    env = toy.make(3, workers=workers)
    env.set_attr("horizon", 2, indices=[0, 2])
    assert env.get_attr("horizon") == [2, 25, 2]
    assert env.has_attr("goal")
    assert not env.has_attr("gaol")
    observation = env.reset()
    found = env.env_method("optimal_action", observation[1], indices=1)[0]
    assert np.array_equal(found, toy.PointReach(1, 3).optimal_action(observation[1]))
    with pytest.raises(NotImplementedError, match="no camera"):
        env.render()
    env.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_come_in_pairs_and_closing_is_idempotent(workers):
    env = toy.make(2, workers=workers)
    env.reset()
    with pytest.raises(RuntimeError, match="expected a pending step"):
        env.step_wait()
    with pytest.raises(ValueError, match=r"actions of shape \(2, 2\).* found \(2,\)"):
        env.step_async(np.zeros(2))
    env.step_async(np.zeros((2, 2)))
    with pytest.raises(RuntimeError, match="no pending step at step_async"):
        env.step_async(np.zeros((2, 2)))
    assert env.reset().shape == (2, 4), "a pending step is dropped"
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="found a closed one"):
        env.reset()


def test_auto_takes_a_worker_for_every_two_cores():
    assert count_workers("auto", 50) == min(50, max(1, cores() // 2))
    assert count_workers("auto", 1) == 1
    assert count_workers(6, 3, 2) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"envs_per_task": 0}, "envs_per_task to be a whole number of at least 1, found 0"),
        ({"envs_per_task": 1.5}, "found 1.5"),
        ({"envs_per_task": 2, "workers": 7}, r"0 \(in-process\) to 6, one per environment; found 7"),
    ],
)
def test_impossible_numbers_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
