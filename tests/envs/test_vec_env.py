import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import envs
from agents import MTSAC
from envs import toy
from envs.columns import TaskSpec
from envs.machine import cores
from envs.meta_world import suites
from envs.vec_env import TaskVecEnv
from envs.workers.pool import count_workers
from tests.odd_tasks import Countdown, Knobs, Says

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
    specs = [TaskSpec(f"{i}-{end}", "tests.odd_tasks:Countdown", {"ending": end}) for i, end in enumerate(endings)]
    return TaskVecEnv.from_specs(specs, workers=workers)


# Numbers


@pytest.mark.parametrize("takes_share", [False, True])
@pytest.mark.parametrize("options", [{}, {"envs_per_task": 2, "staggered": True}], ids=str)
def test_workers_give_the_same_numbers_as_one_process(build, options, takes_share):
    one, two = build(workers=0, **options), build(workers=2, takes_share=takes_share, **options)
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
    specs = [TaskSpec("a", "tests.odd_tasks:Countdown", {"ending": "terminated"})]
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
        envs.from_gymnasium([pendulum, lambda: Countdown("terminated")], ["left", "right"])
    with pytest.raises(ValueError, match="a different name for each environment"):
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


# The same as Stable-Baselines3's DummyVecEnv of the same environments


def knobs(workers, takes_share=False):
    specs = [TaskSpec(name, "tests.odd_tasks:Knobs", {"index": i, "num_tasks": 5}) for i, name in enumerate("abcde")]
    return TaskVecEnv.from_specs(specs, workers=workers, takes_share=takes_share)


@pytest.fixture(params=[False, True], ids=["workers", "takes-share"])
def both(workers, request):
    """Our environment and theirs."""
    ours = knobs(workers, request.param)
    yield ours, DummyVecEnv([lambda i=i: Knobs(i, 5) for i in range(5)])
    ours.close()


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_any_choice_of_columns(both):
    choices = [None, 0, 4, -1, -5, [], [-1], [3, 0, 3], (4, -2), range(1, 4), [-1, 0, -1]]
    for indices in choices:
        found = [
            (
                env.get_attr("index", indices),
                env.get_attr("twice", indices),
                env.env_method("scaled", 3, offset=1, indices=indices),
                env.env_is_wrapped(TimeLimit, indices),
            )
            for env in both
        ]
        assert found[0] == found[1]
        for env in both:
            env.set_attr("index", 10, indices)
        ours, theirs = (env.get_attr("index", iter(range(5))) for env in both)
        assert ours == theirs
        for env in both:
            for column in range(5):
                env.set_attr("index", column, column)
    for index in (5, -6):
        for env in both:
            with pytest.raises(IndexError):
                env.get_attr("index", index)


@pytest.mark.parametrize("workers", [0, 3])
def test_attributes_that_are_there_and_that_are_not(both):
    for env in both:
        assert [env.has_attr(name) for name in ("twice", "nothing", "np_random", "none")] == [True, True, True, False]
        with pytest.raises(AttributeError, match="none"):
            env.get_attr("none")
        assert env.get_attr("render_mode", [1, 0]) == [None, None]


@pytest.mark.parametrize("workers", [0, 3])
def test_options_and_infos_of_a_reset(both):
    for env in both:
        assert env.reset_infos == [{}] * 5
        env.reset()
        env.set_options({"x": 1})
        env.reset()
        assert env.reset_infos == [{"episode": 2, "options": {"x": 1}}] * 5
        env.set_options([{"column": i} if i else {} for i in range(5)])
        env.reset()
        assert [info["options"] for info in env.reset_infos] == [None, *({"column": i} for i in range(1, 5))]
        env.reset()
        assert env.get_attr("resets", 1) == [[None, {"x": 1}, {"column": 1}, None]], "options are for one reset"
        for _ in range(2):
            env.step(np.zeros((5, 2)))
        assert env.reset_infos == [{"episode": 5, "options": None}] * 5, "the reset after an episode counts"


def test_what_cannot_be_sent_to_a_worker_harms_nothing():
    env = knobs(2)
    with pytest.raises(TypeError, match="found object"):
        env.env_method("scaled", object())
    assert env.get_attr("index") == [0, 1, 2, 3, 4]
    env.close()


def test_attributes_under_wrappers():
    ours = envs.from_gymnasium([lambda g=g: TimeLimit(PendulumEnv(g=g), 5) for g in (5.0, 10.0)], ["light", "heavy"])
    theirs = DummyVecEnv([lambda: TimeLimit(PendulumEnv(), 5)] * 2)
    theirs.set_attr("g", 10.0)
    for env in (ours, theirs):
        assert env.has_attr("g")
        assert env.get_attr("_max_episode_steps") == [5, 5]
        assert env.get_attr("max_torque") == [2.0, 2.0]
    ours.set_attr("g", 3.0, indices=-1)
    assert [task.g for task in ours.get_attr("unwrapped")] == [5.0, 3.0], "the physics, not the wrapper"
    ours.set_attr("note", "mine")
    assert ours.get_attr("note") == ["mine", "mine"]


# What a task says


def said(**answers):
    env = envs.from_gymnasium([lambda: Says(**answers)], ["talker"])
    env.reset()
    steps = [env.step(np.zeros((1, 1))) for _ in range(3)]
    return [(rewards[0], infos[0]) for _, rewards, _, infos in steps]


@pytest.mark.parametrize(
    "one", [1, 1.0, True, np.float32(1), np.bool_(True), np.array(1), np.array([1.0]), np.ones((1, 1))], ids=repr
)
def test_one_number_is_taken_in_any_form(one):
    assert [reward for reward, _ in said(reward=one)] == [1.0, 1.0, 1.0]
    for key in ("success", "is_success"):
        assert [(info["success"], info["is_success"]) for _, info in said(**{key: one})] == [(1.0, True)] * 3


@pytest.mark.parametrize("nothing", [{}, {"success": None}, {"success": math.nan}, {"is_success": None}], ids=str)
def test_success_that_is_not_reported_is_unknown(nothing):
    for _, info in said(**nothing):
        assert math.isnan(info["success"])
        assert "is_success" not in info


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        ({"reward": np.ones(2)}, "reward"),
        ({"reward": None}, "reward"),
        ({"success": "yes"}, "success"),
        ({"success": [1, 0]}, "success"),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_by_task_and_field(answers, field):
    with pytest.raises(ValueError, match=f"expected one number as {field}") as told:
        said(**answers)
    assert "in task 'talker'" in told.value.__notes__


@pytest.mark.parametrize("when", ["first", "observation"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 2), (3,)], ids=str)
def test_observations_of_another_shape_are_never_spread(shape, when):
    class Two(Says):
        observation_space = Box(-1, 1, (2,), np.float32)

        def __init__(self):
            super().__init__(**{"first": np.zeros(2), "observation": np.zeros(2), when: np.full(shape, 0.5)})

    env = envs.from_gymnasium([Two], ["talker"])
    with pytest.raises((ValueError, TypeError)):
        (env.reset(), env.step(np.zeros((1, 1))))


# Spaces


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.MultiBinary(2),
        Box(-1, 1, (2, 3)),
        Box(-1, 1, ()),
        Box(-2, 2, (2,), np.int32),
        Box(0, 255, (2,), np.uint8),
        Box(-np.inf, np.inf, (2,)),
        Box(np.array([-1, -np.inf]), np.array([1, 1]), dtype=np.float64),
        Box(np.array([-1, -1]), np.array([1, np.inf]), dtype=np.float64),
        Box(1, 1, (2,)),
        Box(-3e38, 3e38, (2,)),
        Box(1.0, 1.0 + 1e-12, (2,), np.float64),
    ],
    ids=str,
)
def test_actions_that_no_agent_could_choose_are_refused_when_built(space):
    class Odd(Countdown):
        action_space = space

    with pytest.raises(ValueError, match="one-dimensional Box of real numbers"):
        envs.from_gymnasium([lambda: Odd("terminated")], ["odd"])
    if isinstance(space, Box) and np.isfinite([space.low, space.high]).all():

        class OneHot(Odd):
            observation_space = Box(-1, 1, (2,), np.float32)

        with pytest.raises(ValueError, match="flat action space of real numbers"):
            MTSAC("MlpPolicy", DummyVecEnv([lambda: OneHot("terminated")]), device="cpu")


def test_one_environment_for_two_tasks_is_refused():
    one = PendulumEnv()
    with pytest.raises(ValueError, match="a separate environment for each task"):
        envs.from_gymnasium([lambda: one, lambda: TimeLimit(one, 5)], ["a", "b"])
