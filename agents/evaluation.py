"""Success per task, each goal visited once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from stable_baselines3.common.vec_env import VecEnv


class Evaluation(NamedTuple):
    """Outcomes of E episodes of each of T tasks, arrays (T, E). Success is NaN where a task does not report it."""

    task_names: tuple[str, ...]
    success: Float[np.ndarray, "tasks episodes"]
    """Success at any step of the episode: the benchmark's definition."""
    success_last: Float[np.ndarray, "tasks episodes"]
    """Success at the last step."""
    returns: Float[np.ndarray, "tasks episodes"]
    lengths: Float[np.ndarray, "tasks episodes"]
    steps_to_success: Float[np.ndarray, "tasks episodes"]
    """Steps until the first success; NaN where there was none."""

    @property
    def task_success(self) -> Float[np.ndarray, " tasks"]:
        """Share of each task's episodes with success at any step; NaN where a task does not report it."""
        return self.success.mean(1)

    @property
    def mean_success(self) -> float:
        """Mean, over the tasks that report it, of the share of episodes with success at any step; NaN if none does."""
        known = self.success[~np.isnan(self.task_success)]
        return float(known.mean()) if len(known) else float("nan")


def evaluate(agent: Any, env: VecEnv, episodes: int) -> Evaluation:
    """Play `episodes` episodes of each task with the deterministic policy.

    `env` is apart from the training environment, so that training is not disturbed, and was made with
    `goal_order="sequential"`: episode k of a task visits goal k.

    :param agent: anything with Stable-Baselines3's `predict`.
    :raises ValueError: if `env` is no vector environment, has several environments per task, or cuts first episodes
        short; if a task gives an observation that is not finite; or if `episodes` is below 1.
    """
    if not isinstance(env, VecEnv):
        raise ValueError(
            f"Expected a vector environment of Stable-Baselines3 with a column per task, found {type(env).__name__}. "
            "envs.make and envs.from_gymnasium make one."
        )
    if episodes < 1:
        raise ValueError(f"Expected at least 1 episode per task, found {episodes}.")
    copies, staggered = getattr(env, "envs_per_task", 1), getattr(env, "staggered", False)
    if copies != 1 or staggered:
        raise ValueError(
            f"Expected one environment per task and whole episodes; found envs_per_task={copies}, "
            f"staggered={staggered}. Make an environment for evaluation with neither."
        )
    num_tasks = env.num_envs
    names = tuple(getattr(env, "task_names", (f"task-{i}" for i in range(num_tasks))))
    outcomes: list[list[tuple[float, ...]]] = [[] for _ in range(num_tasks)]
    returns, lengths, ever = np.zeros(num_tasks), np.zeros(num_tasks, dtype=int), np.full(num_tasks, np.nan)
    first = np.full(num_tasks, np.nan)
    observations = env.reset()
    while min(map(len, outcomes)) < episodes:
        if isinstance(observations, np.ndarray) and not (finite := np.isfinite(observations)).all():
            bad = names[finite.reshape(num_tasks, -1).all(1).argmin()]
            raise ValueError(f"Expected finite observations; task {bad} gave others. Mend its environment.")
        actions, _ = agent.predict(observations, deterministic=True)
        observations, rewards, dones, infos = env.step(actions)
        returns += rewards
        lengths += 1
        now = np.array([info.get("success", info.get("is_success")) for info in infos], dtype=float)  # None: NaN
        ever = np.fmax(ever, now)
        first = np.where(np.isnan(first) & (now > 0), lengths, first)
        for task in np.flatnonzero(dones):
            success = np.fmax(ever[task], float(infos[task].get("is_success", np.nan)))
            counted = {"r": returns[task], "l": lengths[task]}  # for environments without a Monitor
            episode = infos[task].get("episode", counted)
            steps = np.fmin(first[task], lengths[task]) if success > 0 else np.nan
            outcomes[task].append((success, now[task], episode["r"], episode["l"], steps))
            returns[task], lengths[task], ever[task], first[task] = 0, 0, np.nan, np.nan
    columns = np.array([rows[:episodes] for rows in outcomes]).transpose(2, 0, 1)
    return Evaluation(names, *columns)
