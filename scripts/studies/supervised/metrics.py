"""What the answers of a task are worth, as sums over batches: never a mean of means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.stats import rankdata  # type: ignore[import-untyped]
from torch import Tensor


class Metric(ABC):
    """A number for all answers of a task, from what each batch adds to it."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return what a batch contributes: float64 sums of one shape, (terms,)."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what all batches came to."""
        return torch.stack(list(parts)).sum(0)

    @abstractmethod
    def result(self, sums: Tensor) -> float:
        """Return the number."""

    def why_undefined(self, target: Tensor) -> str:
        """Return why the metric has no value for these targets, whatever the answers; empty if it has one."""
        return "" if len(target) else "no rows"


class Ratio(Metric):
    """A sum divided by a count."""

    def result(self, sums: Tensor) -> float:
        """Return the quotient."""
        return float(sums[0] / sums[1])


def _counted(hits: Tensor) -> Tensor:
    return torch.stack([hits.double().sum(), torch.tensor(float(hits.numel()), dtype=torch.float64)])


class Accuracy(Ratio):
    """Share of rows (pixels) whose class is named; targets below 0 are not counted."""

    name, higher_is_better = "accuracy", True

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Hits and rows."""
        return _counted((prediction.argmax(1) == target)[target >= 0])


class ErrorRate(Ratio):
    """Share of wrong answers to a question of yes or no, (rows,) logits."""

    name, higher_is_better = "error", False

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Misses and rows."""
        return _counted((prediction.squeeze(1) > 0) != (target > 0))


@dataclass(frozen=True)
class RootMeanSquare(Metric):
    """Square root of the mean squared difference, in the target's unit.

    :param unit: of the targets, in the unit that is told.
    """

    unit: float = 1.0
    name, higher_is_better = "RMSE", False

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squares and rows."""
        return _counted((prediction.squeeze(1) - target).double().square())

    def result(self, sums: Tensor) -> float:
        """Return the root of the quotient."""
        return self.unit * float((sums[0] / sums[1]).sqrt())


@dataclass(frozen=True)
class MeanAbsolute(Ratio):
    """Mean absolute difference.

    :param unit: of the targets, in the unit that is told.
    """

    unit: float = 1.0
    name, higher_is_better = "MAE", False

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Differences and rows."""
        return _counted(self.unit * (prediction.squeeze(1) - target).double().abs())


class AreaUnderCurve(Metric):
    """AUC, the probability that a positive row is placed above a negative one; ties count half (Mann-Whitney).

    No sum over batches has it: a batch contributes its rows, (rows, 2).
    """

    name, higher_is_better = "AUC", True

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scores and targets."""
        return torch.stack([prediction.squeeze(1).double(), target.double()], dim=1)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """All rows."""
        return torch.cat(list(parts))

    def result(self, sums: Tensor) -> float:
        """Return the rank statistic."""
        positive = (sums[:, 1] > 0).numpy()
        count, ranks = int(positive.sum()), rankdata(sums[:, 0].numpy())
        return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(ranks) - count)))

    def why_undefined(self, target: Tensor) -> str:
        """One class has no curve."""
        found = (target > 0).double().mean().item() if len(target) else 0.0
        return "" if 0 < found < 1 else f"AUC needs rows of both classes, found only {'yes' if found else 'no'}"
