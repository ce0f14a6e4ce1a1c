"""Look whether a task's fast class equals metaworld's own, with versions on which nobody has proven that it does.

Half a second per task, once for each set of versions: what was found equal is remembered by an empty file. Its name
has the task and a digest of the versions and of the code in this folder, so it needs no lock, and where it cannot be
written every process looks for itself.
"""

import contextlib
import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.types import Task

from envs.machine import cache_folder

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
STEPS = 30  # of each actor, with each reward, at each visit of a goal


def difference(name: str, versions: Mapping[str, str]) -> str:
    """Say what first differs between a task and its fast twin; "" if nothing does, now or when it was looked at."""
    seen = _remembered_by(name, versions)
    with contextlib.suppress(OSError):
        if seen.exists():
            return ""
    try:
        found = next(differences(name), "")
    except Exception as error:  # what the fast path reaches into may be gone, in whatever way
        found = f"{type(error).__name__}: {error}"
    if not found:
        with contextlib.suppress(OSError):
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()
    return found


def differences(name: str) -> Iterator[str]:
    """Play a task and its twin side by side: both rewards, two goals and the first again, at random and by the expert.

    :raises Exception: whatever goes wrong with versions that have what the fast path needs in another place.
    """
    from envs.meta_world.fast.step import fast_class  # here, as it may not even import

    plain = ALL_V3_ENVIRONMENTS[name]
    twins: tuple[Any, Any] = plain(), fast_class(plain)()  # type: ignore[arg-type]  # a class is hashable
    goals = [draw_goal(twins[0], seed) for seed in range(2)]
    generator = np.random.default_rng(0)
    for version in ("v1", "v2"):
        for env in twins:
            env.reward_function_version = version
        for goal in (goals[0], goals[1], goals[0]):
            set_goal(twins, name, goal)
            (observation, _), (other, _) = (env.reset() for env in twins)
            yield from _unequal({"a reset's observation": (observation, other)})
            for step in range(2 * STEPS):
                action = generator.uniform(-1.2, 1.2, 4).astype(np.float32)
                if step < STEPS:
                    action = expert(name, observation)
                (observation, *told), (other, *found) = (env.step(action) for env in twins)
                yield from _unequal({"observation": (observation, other), **_told(told, found)})
                yield from _unequal({"physics": (state(twins[0]), state(twins[1]))})


def _told(told: list[Any], found: list[Any]) -> dict[str, tuple[Any, Any]]:
    infos = {f"info {key!r}": (value, found[-1].get(key)) for key, value in told[-1].items()}
    return {"reward": (told[0], found[0]), "end": (told[1:3], found[1:3]), **infos}


def _unequal(pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    return (what for what, (a, b) in pairs.items() if not same(a, b))


def same(a: Any, b: Any) -> bool:
    """Whether two values have the same type, shape and bits."""
    return type(a) is type(b) and np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def state(env: Any) -> np.ndarray:
    """Return the state of the physics."""
    values = np.empty(mujoco.mj_stateSize(env.model, STATE))
    mujoco.mj_getState(env.model, env.data, values, STATE)
    return values


def draw_goal(env: Any, seed: int) -> np.ndarray:
    """Let metaworld draw what places goal and object."""
    env._set_task_called = env.seeded_rand_vec = True
    env._freeze_rand_vec = False
    env.seed(seed)
    env.reset()
    env.seeded_rand_vec = False
    vector: np.ndarray = env._last_rand_vec.copy()
    return vector


def set_goal(twins: tuple[Any, ...], name: str, goal: np.ndarray) -> None:
    """Let the next reset of each be at that goal."""
    data = {"env_cls": ALL_V3_ENVIRONMENTS[name], "rand_vec": goal, "partially_observable": False}
    for env in twins:
        env.set_task(Task(name, pickle.dumps(data)))


def expert(name: str, observation: np.ndarray) -> np.ndarray:
    """Return the action of metaworld's script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        action = ENV_POLICY_MAP[name]().get_action(observation)  # type: ignore[abstract]
    return np.clip(action, -1, 1).astype(np.float32)


def _remembered_by(name: str, versions: Mapping[str, str]) -> Path:
    digest = hashlib.blake2b(json.dumps(dict(versions), sort_keys=True).encode(), digest_size=8)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return cache_folder() / "fast-path" / f"{digest.hexdigest()}-{name}"
