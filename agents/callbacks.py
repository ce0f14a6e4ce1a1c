"""Callbacks that count environment steps per task: evaluation and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.evaluation import Evaluation, evaluate
from agents.mtsac import MTSAC
from agents.saving.checkpoint import prune, save_checkpoint


class EveryStepsPerTask(BaseCallback):
    """Run `act` each time every task has taken another `every` environment steps, or just passed them (0: never)."""

    model: MTSAC

    def __init__(self, every: int):
        super().__init__()
        self.every = every

    def due(self) -> bool:
        """Whether it is time to act at this step."""
        return self.model.due(self.every)

    def _on_step(self) -> bool:
        if self.due():
            self.model.settle()  # an evaluation shares this process with the environment, a checkpoint holds it
            self.act()
        return True

    def act(self) -> None:
        """Act at such a step."""
        raise NotImplementedError


class EvaluationCallback(EveryStepsPerTask):
    """Evaluate on environments of its own, which are reused.

    :param env: made with `goal_order="sequential"`, one environment per task; never the training environment.
    :param every: environment steps per task between two evaluations; 0 for none.
    :param episodes: per task.
    :param on_result: called with (environment steps per task, Evaluation).
    """

    def __init__(
        self, env: VecEnv, every: int, episodes: int, on_result: Callable[[int, Evaluation], None] | None = None
    ):
        super().__init__(every)
        self.env, self.episodes, self.on_result = env, episodes, on_result
        self.last: Evaluation | None = None

    def act(self) -> None:
        """Evaluate, tell `on_result`, and log success per task by name."""
        self.last = evaluate(self.model, self.env, self.episodes)
        rates = dict(zip(self.last.task_names, self.last.task_success, strict=True))
        named = {"eval/success": self.last.mean_success, **{f"eval/success/{task}": r for task, r in rates.items()}}
        for name, success in named.items():
            if np.isfinite(success):  # else the task does not report it
                self.logger.record(name, float(success))
        if self.on_result is not None:
            self.on_result(self.model.steps_per_task, self.last)


class CheckpointCallback(EveryStepsPerTask):
    """Keep the last `keep` checkpoints in `folder`.

    :param every: environment steps per task between two checkpoints; 0 for none.
    """

    def __init__(self, folder: str | Path, every: int, keep: int = 2):
        super().__init__(every)
        self.folder, self.keep = Path(folder), keep

    def act(self) -> None:
        """Write the checkpoint, then delete the ones that are too many."""
        save_checkpoint(self.folder, self.model, self.training_env)
        prune(self.folder, self.keep)
