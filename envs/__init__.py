"""Benchmarks as vector environments: column c is task c mod T."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.columns import TaskSpec
from envs.workers.pool import WorkerError

if TYPE_CHECKING:
    from envs.vec_env import TaskVecEnv, from_gymnasium

__all__ = ["WorkerError", "from_gymnasium", "make"]


def __getattr__(name: str) -> Any:
    if name == "from_gymnasium":  # on demand: its module brings Stable-Baselines3 and torch
        from envs.vec_env import from_gymnasium

        return from_gymnasium
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make(
    suite: str,
    seed: int,
    workers: int | str = "auto",
    reward_version: str = "v2",
    tasks: Sequence[str] | None = None,
    goals: int | Mapping[str, np.ndarray] = 50,
    horizon: int = 500,
    goal_order: str = "random",
    envs_per_task: int = 1,
    staggered: bool = False,
) -> "TaskVecEnv":
    """Build a suite as one vector environment; one seed always gives the same numbers, with workers or without.

    :param suite: MT1, MT10, MT25, MT50, custom or toy. MT1 and custom need `tasks`; MT10, MT25 and MT50 with
        `tasks` are custom.
    :param seed: of the goals that metaworld draws and of the order in which they are visited.
    :param workers: processes; 0 steps in this one, "auto" takes one for every two cores.
    :param reward_version: "v1" or "v2".
    :param goals: the first n of the 50 that metaworld draws per task, or name -> (G, D) vectors of a saved run.
    :param horizon: steps per episode, at most 500 in Meta-World (the toy tasks are meant for about 25).
    :param goal_order: "random", or "sequential": the n-th episode since `reset()` has goal n mod G.
    :param envs_per_task: E environments of each task, each with its own random order of the same goals: E T columns,
        column c is environment c // T of task c mod T.
    :param staggered: truncate the first episode after `reset()` of column c after ceil(horizon (c + 1) / (E T)) steps,
        so that episodes do not all end together.

    The toy suite has no goals to choose, one reward and one order; there `goals`, `reward_version` and `goal_order`
    have no effect.

    :raises ValueError: for bad input, saying what was expected and found.
    :raises WorkerError: if a worker fails.
    """
    # Imported here and not above: they bring Stable-Baselines3 and torch, and workers import this package.
    from envs import toy
    from envs.meta_world import suites
    from envs.meta_world import task as meta_world
    from envs.vec_env import TaskVecEnv
    from envs.workers.pool import count_workers

    if not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed of 0 to 2**32 - 1, found {seed}")
    if suites.suite_name(suite) == "toy":
        num_tasks = 4 if tasks is None else toy.check_names(tasks)
        return toy.make(num_tasks, 0.5, seed, horizon, workers, envs_per_task, staggered)
    names = suites.task_names(suite, tasks)
    count = count_workers(workers, len(names), envs_per_task)
    meta_world.check_options(reward_version, horizon, goal_order)
    chosen = suites.choose_goals(names, suite, seed, goals)
    options = {"reward_version": reward_version, "horizon": horizon, "goal_order": goal_order}
    specs = [
        TaskSpec(name, "envs.meta_world.task:MetaWorldTask", {"name": name, "goals": chosen[name], **options})
        for name in names
    ]
    return TaskVecEnv.from_specs(specs, seed, count, chosen, envs_per_task, stagger=horizon if staggered else 0)
