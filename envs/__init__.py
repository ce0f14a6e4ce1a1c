"""Benchmarks as vector environments: column c is task c mod T."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from envs.benchmarks import BENCHMARKS, Benchmark, TaskOptions, checked_tasks, find_benchmark, whole
from envs.gym_list import from_gymnasium
from envs.workers.pool import WorkerError

if TYPE_CHECKING:
    from envs.vec_env import TaskVecEnv

__all__ = ["BENCHMARKS", "Benchmark", "WorkerError", "find_benchmark", "from_gymnasium", "make"]


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
    only: str | None = None,
    takes_share: bool = False,
) -> "TaskVecEnv":
    """Build a suite as one vector environment; one seed always gives the same numbers, with workers or without.

    :param suite: a name in `BENCHMARKS`. MT1 and custom need `tasks`; MT10, MT25 and MT50 with `tasks` are custom.
        Or module:function or path/to/file.py:function, which is imported and called, see `envs.gym_list`.
    :param seed: of the goals that metaworld draws and of the order in which they are visited.
    :param workers: processes; 0 steps in this one, "auto" takes one for every two cores.
    :param reward_version: "v1" or "v2".
    :param goals: the first n of the 50 that metaworld draws per task, or name -> (G, D) vectors of a saved run.
    :param horizon: steps per episode, at most 500 in Meta-World (the toy tasks are meant for about 25); environments of
        module:function may end an episode earlier.
    :param goal_order: "random", or "sequential": the n-th episode since `reset()` has goal n mod G.
    :param envs_per_task: E environments of each task, each with its own random order of the same goals: E T columns,
        column c is environment c // T of task c mod T.
    :param staggered: truncate the first episode after `reset()` of column c after ceil(horizon (c + 1) / (E T)) steps,
        so that episodes do not all end together.
    :param only: leave out all tasks but this one, which is as it is among the others.
    :param takes_share: beside K workers this process steps its share, for a caller who would only wait for them.

    Only Meta-World has goals to choose, reward versions and an order of goals; elsewhere `goals`, `reward_version` and
    `goal_order` have no effect.

    :raises ValueError: for bad input, saying what was expected and found.
    :raises WorkerError: if a worker fails.
    """
    from envs.vec_env import TaskVecEnv  # brings Stable-Baselines3 and torch, and workers import this package

    # which horizons and goals there are, the benchmark says
    seed, horizon = whole("seed", seed, 0, 2**32 - 1), whole("horizon", horizon, 0)
    envs_per_task = whole("envs_per_task", envs_per_task, 1)
    goals = goals if isinstance(goals, Mapping) else whole("goals", goals, 0)
    options = TaskOptions(suite, tasks, seed, goals, horizon, reward_version, goal_order)
    found = find_benchmark(suite).task_set(options)
    specs, kept = found.specs, found.goals
    if only is not None:
        checked_tasks([only], [spec.name for spec in specs])
        specs, kept = [spec for spec in specs if spec.name == only], {only: found.goals[only]}
    stagger = horizon if staggered else 0
    return TaskVecEnv.from_specs(
        specs, seed, workers, kept, envs_per_task, stagger, found.spaces, takes_share=takes_share
    )
