"""The latest numbers of training, per task by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mtrl.diagnostics import taylor_curvature


@runtime_checkable
class Recorder(Protocol):
    """Takes the numbers of a row of logs, as Stable-Baselines3's `Logger` does."""

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """Add a number to the row."""


class TaskMetrics:
    """Keeps tensors of the last update on their device, and the outcomes of each task's last episodes.

    :param window: how many episodes of a task its success, return and length are averaged over.
    """

    def __init__(self, task_names: Sequence[str], window: int):
        self.task_names = task_names
        self.latest: dict[str, Tensor] = {}
        self.measured: dict[str, Tensor] = {}  # of conflict, now and then: there until it is written to a log
        self.episodes: list[deque[tuple[float, ...]]] = [deque(maxlen=window) for _ in task_names]

    def note(self, **values: Tensor) -> None:
        """Take note of numbers of this update, in tensors that stay the same: a captured graph writes into them."""
        new = {name: value.detach().clone() for name, value in values.items() if name not in self.latest}
        known = [name for name in values if name not in new]
        if known:
            torch._foreach_copy_([self.latest[name] for name in known], [values[name].detach() for name in known])
        self.latest |= new

    def add_episodes(self, infos: Sequence[dict[str, Any]], dones: np.ndarray) -> None:
        """Take note of the episodes that ended with this step; column c is of task c mod T."""
        for column in np.flatnonzero(dones).tolist():
            episode = infos[column].get("episode")
            if episode is not None:
                success = float(infos[column].get("is_success", np.nan))
                task = column % len(self.task_names)
                self.episodes[task].append((success, float(episode["r"]), float(episode["l"])))

    def read(self) -> dict[str, float]:
        """All numbers: "group/quantity" over the tasks, "group/quantity/task" by name. Waits for the device."""
        return self._of_updates() | self._of_episodes()

    def record(self, logger: Recorder) -> None:
        """Add all numbers to a row of logs; each measurement is written once."""
        for key, value in self.read().items():
            # by task: to files only, as Stable-Baselines3's table has no room for names that long
            logger.record(key, value, exclude="stdout" if key.count("/") > 1 else None)
        for network, cosines in self.cosines().items():
            logger.record(f"cosines/{network}", cosines, exclude=("stdout", "log", "csv", "json", "tensorboard"))
        self.measured.clear()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next rows of logs depend on."""
        return {
            "episodes": [list(episodes) for episodes in self.episodes],
            "latest": self.latest,
            "measured": self.measured,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`."""
        for kept, saved in zip(self.episodes, state["episodes"], strict=True):
            kept.extend(saved)
        self.latest, self.measured = (
            {name: value.to(device) for name, value in state[group].items()} for group in ("latest", "measured")
        )

    def cosines(self) -> dict[str, np.ndarray]:
        """Return the newest cosines (T, T) of actor and critic by name, unless they are in a log already."""
        names = {name: f"{name}_cosines" for name in ("actor", "critic")}
        return {name: self.measured[key].cpu().numpy() for name, key in names.items() if key in self.measured}

    def _of_updates(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, value in (self.latest | self.measured).items():
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


class StepPath:
    """Where a step began: what the curvature along it needs (Yu et al. 2020, Section 5.3).

    :param losses: of each task, (T,), with their graph.
    :param network: whose parameters are about to move.
    """

    def __init__(self, losses: Tensor, network: nn.Module):
        self._parameters = [p for p in network.parameters() if p.requires_grad]  # the others stay
        self._start = torch.cat([p.detach().flatten() for p in self._parameters])
        self._loss = losses.detach().double().sum()
        gradients = torch.autograd.grad(losses.sum(), self._parameters, retain_graph=True, materialize_grads=True)
        self._gradient = torch.cat([gradient.flatten() for gradient in gradients])

    def curvature(self, losses: Tensor) -> Tensor:
        """Return that of the sum of the losses, by Taylor's formula, from the losses (T,) after the step.

        It is the small difference of large numbers: under bfloat16 it is mostly noise.
        """
        step = torch.cat([p.detach().flatten() for p in self._parameters]) - self._start
        return taylor_curvature(self._loss, losses.double().sum(), self._gradient.double(), step.double())
