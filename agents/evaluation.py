"""Success per task, each goal visited once."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from stable_baselines3.common.vec_env import VecEnv

from agents.environment import envs_per_task, task_names


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
    goal_distance: Float[np.ndarray, "tasks episodes"] = np.array([[np.nan]])
    """Distance to the goal at the last step, `info["goal_distance"]`; NaN where a task does not tell it."""

    @property
    def tells_distance(self) -> bool:
        """Whether any task tells the distance to its goal."""
        return not bool(np.isnan(self.goal_distance).all())

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
    `goal_order="sequential"`: episode k of a task visits goal k. With E environments per task, environment e plays the
    episodes e, e + E, e + 2E, ...: the same episodes in a share of the vector steps, and the same numbers. Tasks must
    know `goal_offset` and `goal_stride` for that, as Meta-World's do.

    :param agent: anything with Stable-Baselines3's `predict`.
    :raises ValueError: if `env` is no vector environment, has several environments of a task that cannot share its
        goals out, or cuts first episodes short; if a task gives an observation that is not finite; or if `episodes` is
        below 1.
    """
    if not isinstance(env, VecEnv):
        raise ValueError(
            f"Expected a vector environment of Stable-Baselines3 with a column per task, found {type(env).__name__}. "
            "envs.make and envs.from_gymnasium make one."
        )
    if not isinstance(episodes, Integral) or episodes < 1:
        raise ValueError(f"Expected a whole number of at least 1 episode per task, found {episodes!r}.")
    if not hasattr(agent, "predict"):
        raise ValueError(f"Expected an agent, with a method predict; found {type(agent).__name__}.")
    copies = _shared_out(env)
    columns, names = env.num_envs, task_names(env)
    num_tasks = len(names)
    if len(built_for := getattr(agent, "task_names", names)) != num_tasks:
        raise ValueError(f"This agent was built for the tasks {built_for}, the environment has {names}.")
    outcomes: list[list[tuple[float, ...]]] = [[] for _ in range(columns)]
    returns, lengths, ever = np.zeros(columns), np.zeros(columns, dtype=int), np.full(columns, np.nan)
    first = np.full(columns, np.nan)
    # a matrix product may round otherwise with other rows beside it, and a simulator makes much of that
    blocks = copies if getattr(getattr(agent, "device", None), "type", "cpu") == "cpu" else 1
    observations = env.reset()
    while any(len(outcomes[c]) < len(range(c // num_tasks, episodes, copies)) for c in range(columns)):
        if isinstance(observations, np.ndarray) and not (finite := np.isfinite(observations)).all():
            bad = names[finite.reshape(columns, -1).all(1).argmin() % num_tasks]
            raise ValueError(f"Expected finite observations; task {bad} gave others. Mend its environment.")
        actions = _actions(agent, observations, blocks)
        observations, rewards, dones, infos = env.step(actions)
        returns += rewards
        lengths += 1
        now = np.array([info.get("success", info.get("is_success")) for info in infos], dtype=float)  # None: NaN
        ever = np.fmax(ever, now)
        first = np.where(np.isnan(first) & (now > 0), lengths, first)
        for c in np.flatnonzero(dones):
            success = np.fmax(ever[c], float(infos[c].get("is_success", np.nan)))
            counted = {"r": returns[c], "l": lengths[c]}  # for environments without a Monitor
            episode = infos[c].get("episode", counted)
            steps = np.fmin(first[c], lengths[c]) if success > 0 else np.nan
            told = infos[c].get("goal_distance")
            distance = np.nan if told is None else float(told)
            outcomes[c].append((success, now[c], episode["r"], episode["l"], steps, distance))
            returns[c], lengths[c], ever[c], first[c] = 0, 0, np.nan, np.nan
    in_order = [
        [outcomes[k % copies * num_tasks + task][k // copies] for k in range(episodes)] for task in range(num_tasks)
    ]
    return Evaluation(names, *np.array(in_order).transpose(2, 0, 1))


def _shared_out(env: VecEnv) -> int:
    """Share each task's goals out among its environments; return how many these are."""
    copies, staggered = envs_per_task(env), getattr(env, "staggered", False)
    if staggered or (copies > 1 and not env.has_attr("goal_stride")):
        raise ValueError(
            f"Expected one environment per task, or tasks with goals to share out, and whole episodes; found "
            f"envs_per_task={copies}, staggered={staggered}. Make an environment for evaluation with neither."
        )
    if copies > 1:
        for c in range(env.num_envs):
            env.set_attr("goal_offset", c // (env.num_envs // copies), indices=c)
            env.set_attr("goal_stride", copies, indices=c)
    return copies


def _actions(agent: Any, observations: Any, blocks: int) -> np.ndarray:
    """Return the deterministic actions for all columns, chosen for so many equal parts of them one after the other."""
    if blocks == 1:
        return agent.predict(observations, deterministic=True)[0]
    parts = np.split(observations, blocks)
    return np.concatenate([agent.predict(part, deterministic=True)[0] for part in parts])
