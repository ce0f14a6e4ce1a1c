"""Losses of a batch that several data sets have: means over predictions (rows, 1) and targets (rows,)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared difference."""
    return functional.mse_loss(prediction.squeeze(1), target)


def binary(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of one logit per row, targets 0 or 1."""
    return functional.binary_cross_entropy_with_logits(prediction.squeeze(1), target)
