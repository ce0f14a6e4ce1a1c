"""Tasks with a known optimum, in plain numpy: points that reach for goals."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.benchmarks import TaskOptions, TaskSet
from envs.columns import TaskSpec

if TYPE_CHECKING:
    from envs.vec_env import TaskVecEnv


class PointReach(gymnasium.Env):
    """Move a point in the plane to a goal that is not observed: only the task's one-hot tells which goal it is.

    The goals of all tasks lie on the unit circle. `conflict` spreads them: at 0 all tasks share one goal, at 1 they are
    spread evenly, so that two tasks pull in opposite directions. Reward = -distance to the goal after the step.

    :param index: this task, 0 <= index < num_tasks.
    :param conflict: 0 to 1.
    :param horizon: steps until truncation.
    """

    SPEED = 0.1  # distance per step and axis at full action
    START = 0.1  # episodes begin in [-START, START]^2
    RADIUS = 0.1  # success within this distance of the goal

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, index: int, num_tasks: int, conflict: float = 0.5, horizon: int = 25) -> None:
        angle = conflict * 2 * math.pi * index / num_tasks
        self.goal = np.array([math.cos(angle), math.sin(angle)])
        self.horizon = horizon
        self._position = np.zeros(2)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the point near the centre."""
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-self.START, self.START, 2)
        self._steps = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the point by SPEED * action."""
        self._position = self._position + self.SPEED * np.clip(action, -1.0, 1.0)
        self._steps += 1
        distance = math.dist(self._position, self.goal)
        info = {"success": float(distance <= self.RADIUS)}
        return self._observation(), -distance, False, self._steps >= self.horizon, info

    def optimal_action(self, observation: np.ndarray) -> np.ndarray:
        """Return the best action (2,): the axes are independent, so full speed on each is never beaten."""
        return np.clip((self.goal - observation[:2]) / self.SPEED, -1.0, 1.0).astype(np.float32)

    def optimal_return(self) -> float:
        """Return the highest sum of rewards from here to the end of the episode."""
        far = np.abs(self.goal - self._position)  # (2,)
        steps = np.arange(1, self.horizon - self._steps + 1)[:, None]
        left = np.maximum(far - self.SPEED * steps, 0.0)  # (steps, 2)
        return -float(np.linalg.norm(left, axis=1).sum())

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"position": self._position, "steps": self._steps, "generator": self.np_random.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> np.ndarray:
        """Go back to a snapshot and return its observation (2,)."""
        self._position, self._steps = state["position"], state["steps"]
        self.np_random.bit_generator.state = state["generator"]
        return self._observation()

    def _observation(self) -> np.ndarray:
        return self._position.astype(np.float32)


def names(num_tasks: int) -> tuple[str, ...]:
    """Name the point-reaching tasks: point-0, point-1, ..."""
    return tuple(f"point-{i}" for i in range(num_tasks))


def make(
    num_tasks: int = 4,
    conflict: float = 0.5,
    seed: int = 0,
    horizon: int = 25,
    workers: int | str = 0,
    envs_per_task: int = 1,
    staggered: bool = False,
) -> "TaskVecEnv":
    """Build `num_tasks` point-reaching tasks as one vector environment.

    :param conflict: 0, all tasks share one goal, to 1, two tasks are opposite.
    :param envs_per_task: and `staggered`: as in `envs.make`.
    :raises ValueError: for a number of tasks or a horizon below 1, or a conflict outside 0 to 1.
    """
    from envs.vec_env import TaskVecEnv  # brings Stable-Baselines3 and torch, which workers must not import

    found = _task_set(num_tasks, conflict, horizon)
    return TaskVecEnv.from_specs(
        found.specs, seed, workers, found.goals, envs_per_task, stagger=horizon if staggered else 0
    )


def task_set(options: TaskOptions) -> TaskSet:
    """Choose four point-reaching tasks, or as many as are named.

    :raises ValueError: for other names, or a horizon below 1.
    """
    return _task_set(4 if options.tasks is None else check_names(options.tasks), 0.5, options.horizon)


def _task_set(num_tasks: int, conflict: float, horizon: int) -> TaskSet:
    if num_tasks < 1 or horizon < 1 or not 0 <= conflict <= 1:
        raise ValueError(
            "expected num_tasks >= 1, horizon >= 1 and conflict in [0, 1], "
            f"found num_tasks={num_tasks}, horizon={horizon}, conflict={conflict}"
        )
    shared = {"num_tasks": num_tasks, "conflict": conflict, "horizon": horizon}
    specs = [TaskSpec(name, "envs.toy:PointReach", {"index": i, **shared}) for i, name in enumerate(names(num_tasks))]
    return TaskSet(specs, {spec.name: spec.build().goal[None] for spec in specs})


def check_names(tasks: Sequence[str]) -> int:
    """Return how many point-reaching tasks `tasks` names.

    :raises ValueError: unless they are point-0, point-1, ... without gaps.
    """
    if not tasks or tuple(tasks) != names(len(tasks)):
        raise ValueError(f"expected toy tasks point-0, point-1, ... in order, found {', '.join(tasks) or 'none'}")
    return len(tasks)
