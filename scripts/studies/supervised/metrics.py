"""What the answers of a task are worth, as sums over batches: never a mean of means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata  # type: ignore[import-untyped]
from torch import Tensor


class Metric(ABC):
    """A number for all answers of a task, from what each batch adds to it."""

    name: str
    higher_is_better: bool

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


@dataclass(frozen=True)
class Mean(Metric):
    """A mean over rows, or over pixels.

    :param numbers: what counts, from predictions and targets.
    :param told: what is told, from the mean.
    """

    name: str
    higher_is_better: bool
    numbers: Callable[[Tensor, Tensor], Tensor]
    told: Callable[[float], float] = float

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Sum and count."""
        found = self.numbers(prediction, target)
        return torch.stack([found.double().sum(), torch.tensor(float(found.numel()), dtype=torch.float64)])

    def result(self, sums: Tensor) -> float:
        """Return the quotient, as it is told."""
        return self.told(float(sums[0] / sums[1]))


ACCURACY = Mean("accuracy", True, lambda said, target: (said.argmax(1) == target)[target >= 0])
"""Share of rows (pixels) whose class is named; targets below 0 are not counted."""

ERROR_RATE = Mean("error", False, lambda said, target: (said.squeeze(1) > 0) != (target > 0))
"""Share of wrong answers to a question of yes or no, (rows,) logits."""


def root_mean_square(unit: float = 1.0) -> Mean:
    """Square root of the mean squared difference.

    :param unit: of the targets, in the unit that is told.
    """
    return Mean(
        "RMSE", False, lambda said, target: _difference(said, target).square(), lambda mean: unit * math.sqrt(mean)
    )


def mean_absolute(unit: float = 1.0) -> Mean:
    """Mean absolute difference.

    :param unit: of the targets, in the unit that is told.
    """
    return Mean("MAE", False, lambda said, target: unit * _difference(said, target).abs())


def _difference(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.squeeze(1) - target).double()


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
