"""What an environment must be for an agent to learn in it: its columns, tasks, observations and actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize


def envs_per_task(env: Any) -> int:
    """E, where the environment says so; else every column is a task of its own."""
    return getattr(env, "envs_per_task", 1)


def task_names(env: Any) -> tuple[str, ...]:
    """Return the T names of the environment's tasks, or task-0, task-1, ...; none without an environment.

    :raises ValueError: unless each of the columns c is of task c mod T.
    """
    if env is None:
        return ()
    copies, names = envs_per_task(env), getattr(env, "task_names", None)
    names = tuple(names or (f"task-{i}" for i in range(env.num_envs // copies)))
    if env.num_envs != copies * len(names):
        raise ValueError(
            f"Expected {copies} columns for each of {len(names)} tasks ({', '.join(names)}); the environment has "
            f"{env.num_envs} columns. Let its task_names and envs_per_task agree with its num_envs."
        )
    return names


def check_columns(env: Any, names: tuple[str, ...], copies: int) -> None:
    """Refuse an environment of other columns than `copies` for each of the tasks `names`.

    :raises ValueError: saying what the agent was built for, and what was found.
    """
    found = getattr(env, "task_names", None)
    if found is not None and tuple(found) != names:
        raise ValueError(f"This agent was built for the tasks {names}, the environment has {found}.")
    num_envs, found_copies = getattr(env, "num_envs", 1), envs_per_task(env)
    if (num_envs, found_copies) != (copies * len(names), copies):
        raise ValueError(
            f"This agent was built for {len(names)} tasks with {copies} environments each, the environment has "
            f"{num_envs} columns, {found_copies} for each task. MTSAC.load(path, env) takes any number."
        )


def check_kind(env: Any) -> None:
    """Refuse Gymnasium's own vector environments, which Stable-Baselines3 does not take.

    :raises ValueError: saying what to make instead.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ValueError(
            f"Expected a vector environment of Stable-Baselines3, found Gymnasium's {type(env).__name__}. "
            'envs.make("MT10", seed) makes Meta-World\'s, envs.from_gymnasium any list of environments.'
        )


def check_env(env: VecEnv) -> None:
    """Refuse an environment whose observations cannot end in the tasks' one-hot, or whose actions cannot be scaled.

    :raises ValueError: saying what was expected and found.
    """
    if unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "VecNormalize mixes the tasks' statistics and changes the one-hot columns. Give the environment "
            "without it; use reward_scale for rewards of different size."
        )
    shape, num_tasks = env.observation_space.shape or (), len(task_names(env))
    if len(shape) != 1 or shape[0] <= num_tasks:
        raise ValueError(
            f"Expected flat observations whose last {num_tasks} columns are the task's one-hot; found the space "
            f"{env.observation_space}. envs.from_gymnasium adds the columns to any list of environments."
        )
    actions = env.action_space
    assert isinstance(actions, spaces.Box)  # Stable-Baselines3 has refused others
    with np.errstate(over="ignore", invalid="ignore"):
        size = actions.high.astype(np.float32) - actions.low.astype(np.float32)
    if not np.issubdtype(actions.dtype, np.floating) or size.ndim != 1 or not np.all((size > 0) & (size < np.inf)):
        raise ValueError(
            f"Expected a flat action space of real numbers, each between two bounds that float32 can tell apart; found "
            f"{actions}. gymnasium.wrappers.TransformAction and RescaleAction change an environment's."
        )


def check_one_hot(observations: np.ndarray, num_tasks: int) -> None:
    """Refuse observations (E T, D) whose last T columns are not the identity, E times.

    :raises ValueError: showing the columns found.
    """
    one_hot = observations[:, -num_tasks:]
    rows = np.arange(len(observations))
    if not np.array_equal(one_hot, np.eye(num_tasks)[rows % num_tasks]):
        raise ValueError(
            f"Expected the last {num_tasks} observation columns to be the identity (row i: task i mod {num_tasks}); "
            f"found\n"
            f"{one_hot}\nenvs.make and envs.from_gymnasium give such observations."
        )
