"""The fast path against metaworld's own code: equal to the bit in physics, observations, rewards and infos.

The suite compares every task briefly and some over whole episodes. The whole proof takes about ten minutes and prints
what it has compared; run it before a version is added to `envs.meta_world.fast.path.PROVEN`:

    python -m tests.envs.test_fast_meta_world

It visits several goals and one of them again, on all 50 tasks, with both rewards, random actions and metaworld's
scripted experts, 500 steps each.
"""

import gc
import sys
import warnings
import weakref
from collections import Counter
from functools import cache

import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from envs.meta_world import suites
from envs.meta_world.fast import math as fast_math
from envs.meta_world.fast import path as fast_path
from envs.meta_world.fast import proof
from envs.meta_world.fast.math import FAST_NUMPY, FastRotation
from envs.meta_world.fast.model import load_model
from envs.meta_world.fast.proof import draw_goal, expert, same, set_goal, state
from envs.meta_world.fast.step import FastSawyer, fast_class
from envs.meta_world.task import MetaWorldTask

NAMES = suites.task_names("MT50")
DERIVED = "xpos xquat xmat geom_xpos geom_xmat site_xpos site_xmat".split()
# A marker that nobody reads before the next step moves it. The first pass of a reset leaves it at the height to which
# the object of the last episode has fallen, and the fast path does not let it fall.
UNREAD = {"push-v3": "goal", "push-back-v3": "goal"}


def model_arrays(model):
    """All small arrays of a model: whatever a reset may write is among them."""
    every = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value for name, value in every.items() if isinstance(value, np.ndarray) and value.size < 10_000}


def fields(env):
    """Numbers and arrays among the fields of an environment, and of which part of the data an array is a view."""
    plain = {key: value for key, value in vars(env).items() if np.isscalar(value) or isinstance(value, np.ndarray)}
    views = {
        f"{key}, a view of {name}": True
        for key, value in plain.items()
        for name in DERIVED
        if isinstance(value, np.ndarray) and np.shares_memory(value, getattr(env.data, name))
    }
    return plain | views


class Pair:
    """A task of metaworld and its fast twin, given the same goals and actions; differences are counted by kind."""

    def __init__(self, name):
        self.name = name
        self.envs = [cls() for cls in (ALL_V3_ENVIRONMENTS[name], fast_class(ALL_V3_ENVIRONMENTS[name]))]
        self.goals = [draw_goal(self.envs[0], seed) for seed in range(3)]
        for env in self.envs:
            env.seed(0)
        self.differences = Counter()
        self.compared = Counter()
        self.gap = 0.0  # the largest, in observations and rewards
        self.solved = False

    def compare(self, what, a, b):
        if not same(a, b):
            self.differences[what] += 1

    def compare_all(self, what, a, b):
        """Compare what `a` has by name; the twin may have more fields."""
        for key, value in a.items():
            self.compare(f"{what} {key}", value, b.get(key))

    def reset(self, goal):
        set_goal(self.envs, self.name, self.goals[goal])
        (plain, _), (fast, _) = (env.reset() for env in self.envs)
        self.compared["resets"] += 1
        self.compare("observation after a reset", plain, fast)
        self.compare_all("model's", *(model_arrays(env.model) for env in self.envs))
        self._compare_lasting("after a reset")
        return plain

    def _compare_lasting(self, when):
        self.compare(f"physics {when}", *map(state, self.envs))
        one, two = ({name: getattr(env.data, name).copy() for name in DERIVED} for env in self.envs)
        if when == "after a reset" and self.name in UNREAD:
            marker = self.envs[0].data.site(UNREAD[self.name]).id
            one["site_xpos"][marker] = two["site_xpos"][marker] = 0
        self.compare_all(when, one, two)
        self.compare_all(f"field {when}", *map(fields, self.envs))

    def play(self, steps, actor, seed=0):
        """Reset to the goals and step with an actor, "random" or "expert"."""
        observation, rng = self.envs[0]._last_stable_obs, np.random.default_rng(seed)
        for step in range(steps):
            if actor == "random" or observation is None:
                action = rng.uniform(-1.2, 1.2, 4).astype(np.float32)
            else:
                action = expert(self.name, observation)
            (observation, reward, *ends, info), (other, paid, *stops, found) = (env.step(action) for env in self.envs)
            self.compared["steps"] += 1
            self.gap = max(self.gap, np.abs(observation - other).max(), abs(reward - paid))
            self.compare("physics", *map(state, self.envs))
            self.compare("observation", observation, other)
            self.compare("reward", reward, paid)
            self.compare("end", ends, stops)
            self.compare("info", list(info), list(found))
            self.compare_all("info", info, found)
            self.solved |= bool(info["success"])
            touched = self.envs[0].data.contact.geom.flatten()  # rewards ask for one object; any will do here
            if len(touched):
                self.compare("touch", *(env.touching_object(int(touched[step % len(touched)])) for env in self.envs))
        self._compare_lasting("after steps")

    def run(self, version, goals, steps):
        """Visit the goals with both actors."""
        for env in self.envs:
            env.reward_function_version = version  # what its constructor does with it, and nothing else
        for goal in goals:
            for actor in ("random", "expert"):
                self.reset(goal)
                self.play(steps, actor, seed=goal)


@pytest.mark.parametrize("name", NAMES)
def test_fast_is_plain(name):
    pair = Pair(name)
    for version in ("v1", "v2"):
        pair.run(version, [0], steps=12)
    assert not pair.differences
    assert pair.gap == 0


@pytest.mark.parametrize("name", ["push-v3", "peg-insert-side-v3", "basketball-v3", "drawer-close-v3"])
def test_whole_episodes_and_goals_seen_before(name):
    pair = Pair(name)
    for goal in (0, 1, 0):
        pair.reset(goal)
        pair.play(500 if goal else 150, "expert")
    assert not pair.differences
    assert pair.solved, "the expert gets through the reward's thresholds"


def test_a_task_is_what_the_fast_class_makes_of_it():
    task = MetaWorldTask("push-v3", suites.goal_vectors(["push-v3"], "MT1", 0)["push-v3"])
    assert type(task._env) is fast_class(ALL_V3_ENVIRONMENTS["push-v3"])


def test_metaworld_itself_is_left_alone():
    fast_class(ALL_V3_ENVIRONMENTS["push-v3"])
    module = sys.modules[ALL_V3_ENVIRONMENTS["push-v3"].__module__]
    assert module.np is np
    assert module.reward_utils is reward_utils
    assert module.Rotation is Rotation


@pytest.fixture
def unproven(request, monkeypatch, tmp_path):
    """The fast path was never proven on one of the versions, and nothing is remembered: the folder to remember in."""
    versions = {**fast_path.PROVEN, request.param: "99.0"}
    monkeypatch.setattr(fast_path, "version", versions.get)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    anew(monkeypatch)
    return tmp_path


def anew(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(fast_path, "_is_exact", cache(fast_path._is_exact.__wrapped__))
    monkeypatch.setattr(fast_path, "_warned", set())


def reach():
    return type(MetaWorldTask("reach-v3", np.zeros((1, 6)))._env)


PLAIN = ALL_V3_ENVIRONMENTS["reach-v3"]


@pytest.mark.parametrize("unproven", ["metaworld"], indirect=True)
def test_an_unproven_version_is_looked_at_once(unproven, monkeypatch):
    assert reach() is fast_class(PLAIN)
    monkeypatch.setattr(proof, "differences", lambda name: pytest.fail("looked at again"))
    anew(monkeypatch)
    assert reach() is fast_class(PLAIN)
    assert [file.name.partition("-")[2] for file in unproven.rglob("*-v3")] == ["reach-v3"]


@pytest.mark.parametrize("unproven", ["numpy"], indirect=True)
def test_where_nothing_can_be_remembered_every_process_looks(unproven, monkeypatch):
    looked = []
    monkeypatch.setattr(proof, "differences", lambda name: iter(looked.append(name) or ()))
    (unproven / "mtrl-surgery").write_text("in the way of the folder")
    for _ in range(2):
        anew(monkeypatch)
        assert reach() is fast_class(PLAIN)
    assert looked == ["reach-v3"] * 2


@pytest.mark.parametrize(
    ("unproven", "broken", "told"),
    [
        ("mujoco", lambda step: lambda *args: (lambda o, r, *rest: (o, r + 1e-12, *rest))(*step(*args)), "reward"),
        ("numpy", lambda step: lambda *args: np.gone, "AttributeError: .*gone"),
    ],
    indirect=["unproven"],
)
def test_what_is_not_equal_takes_the_plain_path_with_one_warning(unproven, monkeypatch, broken, told):
    monkeypatch.setattr(FastSawyer, "step", broken(FastSawyer.step))
    with pytest.warns(UserWarning, match=f"99.0.*not exact .reach-v3: {told}.*metaworld's own code") as caught:
        assert [reach(), reach()] == [PLAIN] * 2
    assert len(caught) == 1
    assert not list(unproven.rglob("*-v3"))


def whole(model):
    """A model as the bytes of its file."""
    size = mujoco.mj_sizeModel(model)
    written = np.empty(size, np.uint8)
    mujoco.mj_saveModel(model, None, written)
    return written.tobytes()


@pytest.mark.parametrize("name", ["basketball-v3", "faucet-close-v3", "push-v3", "stick-pull-v3"])
def test_a_model_that_was_copied_is_as_it_was_compiled(name):
    """However the environment that it was copied from has been played."""
    env = fast_class(ALL_V3_ENVIRONMENTS[name])()
    compiled = mujoco.MjModel.from_xml_path(env.fullpath)
    for seed in range(2):
        draw_goal(env, seed)
        env.step(np.ones(4, np.float32))
    assert whole(env.model) != whole(compiled)
    copied = load_model(env.fullpath)
    assert copied is not env.model
    assert whole(copied) == whole(compiled)


def test_nothing_outlives_an_environment():
    env = fast_class(ALL_V3_ENVIRONMENTS["reach-v3"])()
    data, model = weakref.ref(env.data), weakref.ref(env.model)
    del env
    gc.collect()
    assert data() is None
    assert model() is None


# The drop-ins, beside the originals, on more than the tasks give them


def test_tolerance():
    rng = np.random.default_rng(0)
    for k in range(4000):
        x, margin = rng.normal() * 0.3, max(0.0, rng.normal() * 0.3)
        bounds = (rng.choice([0, 0.0, 0.01]), 0.01 + abs(rng.normal() * 0.1))
        x = (float, np.float64, np.float32, np.array)[k % 4](
            rng.choice([x, bounds[1], np.nan, np.inf], p=[0.9, 0.05, 0.03, 0.02])
        )
        given = {
            "bounds": bounds,
            "margin": (float, np.float64)[k % 2](margin),
            "sigmoid": ("long_tail", "gaussian")[k % 3 > 0],
        }
        assert same(fast_math.tolerance(x, **given), reward_utils.tolerance(x, **given)), (x, given)
    for wrong in ({"margin": -1.0}, {"bounds": (1, 0)}, {"margin": 1.0, "sigmoid": "other"}):
        with pytest.raises(ValueError):  # noqa: PT011  (metaworld's own words)
            fast_math.tolerance(2.0, **wrong)


def test_rotation():
    rng = np.random.default_rng(0)
    quaternions = [*rng.normal(size=(2000, 4)), *rng.integers(-1, 2, (200, 4)) + 0.0, [1, 1e-9, 0, 0], [0, 0, 0, 1]]
    for quaternion in quaternions:
        matrix = np.empty(9)
        quaternion = np.asarray(quaternion, dtype=np.float64)
        mujoco.mju_quat2Mat(matrix, quaternion / (np.linalg.norm(quaternion) or 1))
        for candidate in (matrix.reshape(3, 3), np.eye(3) + rng.normal(size=(3, 3)) * 0.01):
            if np.linalg.det(candidate) > 0:
                expected = Rotation.from_matrix(candidate).as_quat()
                assert same(FastRotation.from_matrix(candidate).as_quat(), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_numpy_drop_ins(dtype):
    rng = np.random.default_rng(0)
    vectors = [(rng.normal(size=n) * 3).astype(dtype) for n in (1, 2, 3, 4, 7)]
    for x in [*vectors, *(vector[0] for vector in vectors), vectors[-1][:6].reshape(2, 3), vectors[-1][::2]]:
        assert same(FAST_NUMPY.linalg.norm(x), np.linalg.norm(x))
        assert same(FAST_NUMPY.abs(x), np.abs(x))
        assert same(FAST_NUMPY.clip(x, -1, 1), np.clip(x, -1, 1))
        assert same(FAST_NUMPY.hstack((x, x)), np.hstack((x, x)))
        assert same(FAST_NUMPY.hstack((x, 0.5)), np.hstack((x, 0.5))) if np.ndim(x) < 2 else True
    for vector in vectors:
        assert same(FAST_NUMPY.linalg.norm(vector, ord=2), np.linalg.norm(vector, ord=2))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    compared, worst, unequal = Counter(), 0.0, Counter()
    chosen = sys.argv[1:] or NAMES
    for name in chosen:
        twins = Pair(name)
        for version in ("v1", "v2"):
            twins.run(version, [0, 1, 2, 0], steps=500)
        compared += twins.compared
        worst = max(worst, twins.gap)
        unequal += Counter({f"{name}: {what}": count for what, count in twins.differences.items()})
        print(
            f"{name:30} {dict(twins.compared)} solved {twins.solved} gap {twins.gap} {dict(twins.differences)}",
            flush=True,
        )
    print(f"{len(chosen)} tasks, {dict(compared)}, largest gap {worst}, differences {unequal.total()}: {dict(unequal)}")
