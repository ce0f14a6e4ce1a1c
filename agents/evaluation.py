"""Success per task, each goal visited once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from stable_baselines3.common.vec_env import VecEnv


class Evaluation(NamedTuple):
    """Outcomes of E episodes of each of T tasks, arrays (T, E)."""

    task_names: tuple[str, ...]
    success: Float[np.ndarray, "tasks episodes"]
    """Success at any step of the episode: the benchmark's definition."""
    success_last: Float[np.ndarray, "tasks episodes"]
    """Success at the last step."""
    returns: Float[np.ndarray, "tasks episodes"]
    lengths: Float[np.ndarray, "tasks episodes"]

    @property
    def mean_success(self) -> float:
        """Mean over tasks of the share of episodes with success at any step."""
        return float(self.success.mean())


def evaluate(agent: Any, env: VecEnv, episodes: int) -> Evaluation:
    """Play `episodes` episodes of each task with the deterministic policy.

    `env` is apart from the training environment, so that training is not disturbed, and was made with
    `goal_order="sequential"`: episode k of a task visits goal k.

    :param agent: anything with Stable-Baselines3's `predict`.
    :raises ValueError: if `env` has several environments per task, or cuts first episodes short.
    """
    copies, staggered = getattr(env, "envs_per_task", 1), getattr(env, "staggered", False)
    if copies != 1 or staggered:
        raise ValueError(
            f"Expected one environment per task and whole episodes; found envs_per_task={copies}, "
            f"staggered={staggered}. Make an environment for evaluation with neither."
        )
    num_tasks = env.num_envs
    outcomes: list[list[tuple[float, ...]]] = [[] for _ in range(num_tasks)]
    observations = env.reset()
    while min(map(len, outcomes)) < episodes:
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, dones, infos = env.step(actions)
        for task in np.flatnonzero(dones):
            info = infos[task]
            last = float(info.get("success", np.nan))
            outcome = (float(info.get("is_success", last)), last, info["episode"]["r"], info["episode"]["l"])
            outcomes[task].append(outcome)
    columns = np.array([rows[:episodes] for rows in outcomes]).transpose(2, 0, 1)
    names = tuple(getattr(env, "task_names", (f"task-{i}" for i in range(num_tasks))))
    return Evaluation(names, *columns)
