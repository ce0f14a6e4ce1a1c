"""The latest numbers of training, per task by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


class TaskMetrics:
    """Keeps tensors of the last update on their device, and the outcomes of each task's last episodes.

    :param window: how many episodes of a task its success, return and length are averaged over.
    """

    def __init__(self, task_names: Sequence[str], window: int):
        self.task_names = task_names
        self.latest: dict[str, Tensor] = {}
        self.episodes: list[deque[tuple[float, ...]]] = [deque(maxlen=window) for _ in task_names]

    def add_episodes(self, infos: Sequence[dict[str, Any]], dones: np.ndarray) -> None:
        """Take note of the tasks whose episode ended with this step."""
        for task in np.flatnonzero(dones).tolist():
            episode = infos[task].get("episode")
            if episode is not None:
                success = float(infos[task].get("is_success", np.nan))
                self.episodes[task].append((success, float(episode["r"]), float(episode["l"])))

    def read(self) -> dict[str, float]:
        """All numbers: "group/quantity" over the tasks, "group/quantity/task" by name. Waits for the device."""
        return self._of_updates() | self._of_episodes()

    def _of_updates(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, value in self.latest.items():
            numbers = value.double().cpu().numpy()
            if numbers.ndim <= 1:  # matrices over pairs of tasks are not for a table
                found[f"train/{name}"] = float(numbers.mean())
            if numbers.ndim == 1:
                found |= self._by_name(f"train/{name}", numbers)
        return found

    def _of_episodes(self) -> dict[str, float]:
        means = np.array([np.mean(done, axis=0) if done else np.full(3, np.nan) for done in self.episodes])
        found: dict[str, float] = {}
        for name, numbers in zip(("success", "return", "length"), means.T, strict=True):
            if np.isfinite(numbers).any():
                found[f"rollout/{name}"] = float(np.nanmean(numbers))
                found |= self._by_name(f"rollout/{name}", numbers)
        return found

    def _by_name(self, name: str, numbers: np.ndarray) -> dict[str, float]:
        return {f"{name}/{task}": float(x) for task, x in zip(self.task_names, numbers, strict=True) if np.isfinite(x)}
