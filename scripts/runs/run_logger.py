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
from scripts.runs.tables import evaluation_rows, mean_known

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

        Where tasks tell it the distance to the goal, too; means are over the tasks that tell, and what is unknown is
        left out.
        """
        rows = evaluation_rows(step, evaluation)
        values: dict[str, float] = {}
        for name in ("success", "success_last", "return", *(["goal_distance"] if evaluation.tells_distance else [])):
            means = {f"/{row['task']}": float(row[name]) for row in rows}
            values |= {f"eval/{name}{of}": mean for of, mean in means.items()}
            values[f"eval/{name}"] = mean_known(np.array(list(means.values())))
        values = {name: mean for name, mean in values.items() if not np.isnan(mean)}
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
