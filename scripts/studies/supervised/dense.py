"""Losses and metrics of tasks that answer for every pixel: classes, depth, surface normals (Liu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scripts.studies.supervised.metrics import Mean, Metric

BINS = 18_000  # of angles, a hundredth of a degree each


def classes(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the pixels with a class; those below 0 have none."""
    return functional.cross_entropy(prediction, target, ignore_index=-1)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over the pixels with a depth; those at 0 have none."""
    known = target != 0
    return (prediction.squeeze(1) - target).abs().mul(known).sum() / known.sum().clamp(min=1)


def direction(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine over the pixels with a normal; those at 0 have none."""
    known = (target != 0).any(1)
    cosines = functional.cosine_similarity(prediction, target, dim=1)
    return 1 - cosines.mul(known).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class MeanIoU(Metric):
    """Intersection over union of the pixels said and asked, mean over the classes that occur.

    :param classes: how many there are.
    """

    classes: int
    name, higher_is_better = "mIoU", True

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the confusion matrix, flat."""
        known = target >= 0
        pairs = target[known] * self.classes + prediction.argmax(1)[known]
        return torch.bincount(pairs, minlength=self.classes**2).double()

    def result(self, sums: Tensor) -> float:
        """Return the mean of hits over all that was said or asked."""
        matrix = sums.view(self.classes, self.classes)
        hits, either = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        return float((hits[either > 0] / either[either > 0]).mean())


ABSOLUTE_ERROR = Mean("abs err", False, lambda said, depth: (said.squeeze(1) - depth)[depth != 0].abs())
"""Mean absolute difference of the depth, where it is known."""

RELATIVE_ERROR = Mean(
    "rel err", False, lambda said, depth: (said.squeeze(1) - depth)[depth != 0].abs() / depth[depth != 0]
)
"""Mean of the absolute difference over the depth, where it is known."""


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees between said and known normals, (pixels,)."""
    known = (target != 0).any(1)
    said, asked = (functional.normalize(x.double(), dim=1).movedim(1, -1)[known] for x in (prediction, target))
    return (said * asked).sum(-1).clamp(-1, 1).arccos().rad2deg()


MEAN_ANGLE = Mean("mean angle", False, angles)
"""Mean angle between the normals, in degrees."""


def within(degrees: float) -> Mean:
    """Share of pixels whose normal is within an angle."""
    return Mean(f"within {degrees:g}", True, lambda said, normals: angles(said, normals) < degrees)


class MedianAngle(Metric):
    """Median angle between the normals, in degrees, to a hundredth."""

    name, higher_is_better = "median angle", False

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return how many pixels there are of each hundredth of a degree."""
        return torch.histc(angles(prediction, target), BINS, 0, 180)

    def result(self, sums: Tensor) -> float:
        """Return the middle of the hundredth in which half of the pixels are reached."""
        return (int((sums.cumsum(0) >= sums.sum() / 2).nonzero()[0]) + 0.5) * 180 / BINS
