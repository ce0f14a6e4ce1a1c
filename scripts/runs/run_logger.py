"""What a logger of a training is: it gets metrics, conflicts and evaluations, each with its step per task.

Those that draw curves get Stable-Baselines3's names of a few of them, too (ALIASES), which other tools look for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from agents.evaluation import Evaluation
from scripts.runs.folder import Run

Cosines = Mapping[str, Float[np.ndarray, "tasks tasks"]]
ALIASES = {
    "rollout/return": "rollout/ep_rew_mean",
    "rollout/length": "rollout/ep_len_mean",
    "rollout/success": "rollout/success_rate",
    "eval/return": "eval/mean_reward",
    "eval/success": "eval/success_rate",
}


class RunLogger:
    """One place for the numbers of a run. Steps are steps per task.

    :param run: whose numbers they are; its path, config and protocol are known.
    """

    essential: ClassVar[bool] = False  # whether an error of it ends the training
    package: ClassVar[str] = ""  # what it needs, of the extra `track`

    def __init__(self, run: Run) -> None:
        self.run = run

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the numbers of a log point, by name. By default nothing."""

    def conflicts(self, step: int, cosines: Cosines) -> None:
        """Take the cosines between the tasks' gradients, by network. By default nothing."""

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Take an evaluation. By default as metrics, mean and by task: success (at any step, at the last) and return.

        Where tasks tell it the distance to the goal, too.
        """
        found = {
            "success": evaluation.success,
            "success_last": evaluation.success_last,
            "return": evaluation.returns,
        }
        if evaluation.tells_distance:
            found["goal_distance"] = evaluation.goal_distance
        values = {f"eval/{name}": float(np.mean(episodes)) for name, episodes in found.items()}
        for name, episodes in found.items():
            means = zip(evaluation.task_names, episodes.mean(1), strict=True)
            values |= {f"eval/{name}/{task}": float(mean) for task, mean in means}
        self.metrics(step, values)

    def close(self) -> None:
        """End with the training. By default nothing."""


class CurveLogger(RunLogger):
    """One that draws curves: `draw` gets ours, those of ALIASES, and `time/fps`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._first: tuple[int, float] | None = None  # step and clock of the first row

    def draw(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        raise NotImplementedError

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Draw them. `time/fps` counts the environment steps of all tasks, as Stable-Baselines3 does."""
        more = {alias: values[name] for name, alias in ALIASES.items() if name in values}
        if "time/env_steps_per_task" in values:
            now = time.monotonic()
            first, begin = self._first = self._first or (step, now)
            if now > begin and step > first:
                more["time/fps"] = round((step - first) * len(self.run.protocol.tasks) / (now - begin))
        self.draw(step, {**values, **more})
