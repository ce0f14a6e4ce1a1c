"""Which tasks a suite holds and which goals they have: both asked from metaworld, never written down here."""

from envs.meta_world import simulator  # noqa: F401  (before metaworld, which imports MuJoCo as it is)

# isort: split
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from metaworld import env_dict

from envs.benchmarks import Goals, TaskOptions, TaskSet, checked_tasks, find_benchmark
from envs.columns import TaskSpec
from envs.meta_world.task import check_options

NUM_GOALS = 50  # metaworld draws so many per task

_TABLES = {"MT10": env_dict.MT10_V3, "MT25": env_dict.MT25_V3, "MT50": env_dict.MT50_V3}


def task_set(options: TaskOptions) -> TaskSet:
    """Choose tasks and goals.

    :raises ValueError: for options that no task has, or tasks that there are not.
    """
    names = task_names(options.suite, options.tasks)
    given: dict[str, Any] = {key: getattr(options, key) for key in ("reward_version", "horizon", "goal_order")}
    check_options(**given)
    if options.render_size is not None:
        given["render_size"] = options.render_size
    goals = choose_goals(names, options.suite, options.seed, options.goals)
    factory = "envs.meta_world.task:MetaWorldTask"
    return TaskSet([TaskSpec(name, factory, {"name": name, "goals": goals[name], **given}) for name in names], goals)


def task_names(suite: str, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
    """Name the tasks of a suite in metaworld's order, or check an own list and keep its order.

    :param suite: MT1 and custom need `tasks`; MT10, MT25 and MT50 with `tasks` are own lists as well.
    :raises ValueError: for an unknown suite or task, a task named twice, or a list that is missing.
    """
    suite = find_benchmark(suite).name
    if tasks is None and suite in _TABLES:
        return tuple(_TABLES[suite])
    if not tasks:
        raise ValueError(f"suite {suite} expects task names, found none; give tasks=['reach-v3', ...]")
    if suite == "MT1" and len(tasks) != 1:
        raise ValueError(f"suite MT1 expects one task, found {len(tasks)}; use suite='custom' for a list")
    return checked_tasks(tasks, list(env_dict.ALL_V3_ENVIRONMENTS))


def goal_vectors(names: Sequence[str], suite: str, seed: int) -> Goals:
    """Draw the 50 goals per task, (50, D) float64, that metaworld itself draws for this seed, bit for bit.

    MT10, MT25 and MT50 draw all tasks from one stream. In an own list task i has the goals of
    `metaworld.MT1(name, seed + i)`.
    """
    if tuple(_TABLES.get(find_benchmark(suite).name, ())) == tuple(names):
        return _draw(names, seed)
    return {name: _draw([name], seed + i)[name] for i, name in enumerate(names)}


def choose_goals(names: Sequence[str], suite: str, seed: int, goals: int | Mapping[str, np.ndarray]) -> Goals:
    """Return each task's goals: the first n of metaworld's 50, or those given by name (a saved run has them).

    :raises ValueError: for a number outside 1 to 50, or given goals that lack a task or are not (n, D).
    """
    if isinstance(goals, int):
        if not 1 <= goals <= NUM_GOALS:
            raise ValueError(f"expected 1 to {NUM_GOALS} goals per task, found {goals}")
        return {name: vectors[:goals] for name, vectors in goal_vectors(names, suite, seed).items()}
    return given_goals(names, goals)


def given_goals(names: Sequence[str], goals: Mapping[str, np.ndarray]) -> Goals:
    """Return the goals of these tasks, as float64.

    :raises ValueError: if they lack a task or are not (n, D).
    """
    missing = [name for name in names if name not in goals]
    if missing:
        raise ValueError(f"expected goals for every task, found none for {', '.join(missing)}")
    chosen = {name: np.asarray(goals[name], dtype=np.float64) for name in names}
    for name, vectors in chosen.items():
        if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
            raise ValueError(f"{name}: expected finite goals of shape (n, D), n >= 1; found shape {vectors.shape}")
    return chosen


def _draw(names: Sequence[str], seed: int) -> Goals:
    """Repeat `metaworld._make_tasks`, which draws from numpy's global generator, at a third of its time."""
    outer = np.random.get_state()
    np.random.seed(seed)
    try:
        return {name: _draw_task(name) for name in names}
    finally:
        np.random.set_state(outer)


def _draw_task(name: str) -> np.ndarray:
    env = env_dict.ALL_V3_ENVIRONMENTS[name]()
    env._freeze_rand_vec = False
    env._set_task_called = True
    # A reset moves the hand twice for 50 steps. No draw and no rejection loop looks at the outcome: one step will do.
    env._reset_hand = partial(env._reset_hand, steps=1)  # type: ignore[method-assign]
    vectors = []
    for _ in range(NUM_GOALS):
        env.reset()
        vectors.append(env._last_rand_vec)
    env.close()
    return np.array(vectors)
