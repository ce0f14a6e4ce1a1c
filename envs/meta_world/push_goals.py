"""Pushing to goals: Meta-World's push-v3, whose every training episode has a new start of the puck and a new goal.

The goal-conditioned experiment of Yu et al. 2020 (arXiv 2001.06782, Section 5 and Appendix J.3): what to do is told by
z, where the puck starts and where it is to be, which is drawn uniformly. The tasks goal-1 to goal-9 are places that an
update has for goals, and all alike.
"""

from envs.meta_world import simulator  # noqa: F401  (before metaworld, which imports MuJoCo as it is)

# isort: split
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from envs.benchmarks import TaskOptions, TaskSet, checked_tasks, whole
from envs.columns import TaskSpec
from envs.meta_world.suites import given_goals
from envs.meta_world.task import MetaWorldTask, check_options

NAME = "push-v3"
PLACES = tuple(f"goal-{i}" for i in range(1, 10))
NEAREST = 0.15  # metres from start to goal in the plane: metaworld draws again below it, and with a fixed z forever


class PushToGoal(MetaWorldTask):
    """Push the puck to a goal; with goals in random order each episode draws a new z and `goals` is the latest.

    Observations are metaworld's 39 numbers and, before the 3 of the goal, where the puck started: the last 6 are z.
    `info["goal_distance"]` is that of the puck to the goal after the step, in metres.

    :param goals: (G, 6) x, y, z of the puck's start and of the goal, for goals in sequence.
    :param options: those of `MetaWorldTask` beside its name.
    """

    observation_space = Box(-np.inf, np.inf, (42,), np.float32)

    def __init__(self, goals: np.ndarray, **options: Any) -> None:
        super().__init__(NAME, goals, **options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As `MetaWorldTask.step`, with the distance among the infos."""
        observation, reward, terminated, truncated, info = super().step(action)
        info["goal_distance"] = float(np.linalg.norm(observation[4:7] - observation[-3:]))
        return self._with_start(observation), reward, terminated, truncated, info

    def snapshot(self) -> dict[str, Any]:
        """As `MetaWorldTask.snapshot`, with the running episode's z."""
        return {**super().snapshot(), "z": self.goals[self._goal]}

    def restore(self, state: dict[str, Any]) -> np.ndarray:
        """Go back to a snapshot, bit for bit, and return its observation (42,)."""
        if self.goal_order == "random":
            self.goals = np.array([state["z"]])
        return super().restore(state)

    def _next_goal(self) -> int:
        if self.goal_order != "random":
            return super()._next_goal()
        self.goals = draw(self.np_random, 1, self._env._random_reset_space)  # type: ignore[arg-type]
        return 0

    def _begin(self) -> np.ndarray:
        return self._with_start(super()._begin())

    def _with_start(self, observation: np.ndarray) -> np.ndarray:
        start = np.asarray(self._env.obj_init_pos, dtype=np.float32)
        return np.concatenate([observation[:-3], start, observation[-3:]])


def draw(generator: np.random.Generator, count: int, space: Box) -> np.ndarray:
    """Draw z, (count, 6), as metaworld does: uniformly in `space`, and again where the goal is too near the start."""
    drawn = generator.uniform(space.low, space.high, (count, *space.shape))
    while (near := np.linalg.norm(drawn[:, :2] - drawn[:, 3:5], axis=1) < NEAREST).any():
        drawn[near] = generator.uniform(space.low, space.high, (int(near.sum()), *space.shape))
    return drawn


def task_set(options: TaskOptions) -> TaskSet:
    """Choose nine places, or those that are named, and for each the goals that evaluations visit.

    :raises ValueError: for other names, or options that no task has.
    """
    names = checked_tasks(PLACES if options.tasks is None else options.tasks, PLACES)
    given: dict[str, Any] = {key: getattr(options, key) for key in ("reward_version", "horizon", "goal_order")}
    check_options(**given)
    if options.render_size is not None:
        given["render_size"] = options.render_size
    goals = options.goals
    if isinstance(goals, int):
        count, space = whole("goals", goals, 1), ALL_V3_ENVIRONMENTS[NAME]()._random_reset_space
        goals = {name: draw(_generator(options.seed, name), count, space) for name in names}  # type: ignore[arg-type]
    chosen = given_goals(names, goals)
    factory = "envs.meta_world.push_goals:PushToGoal"
    return TaskSet([TaskSpec(name, factory, {"goals": chosen[name], **given}) for name in names], chosen)


def _generator(seed: int, place: str) -> np.random.Generator:
    """Return the generator of a place: a stream of its own, whichever other places there are."""
    return np.random.default_rng([seed, PLACES.index(place)])
