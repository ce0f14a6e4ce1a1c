"""The baseline that every method is compared with."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import LossAggregator


class Mean(LossAggregator):
    """Follow the mean of the task gradients: one ordinary backward pass, bit for bit `losses.mean().backward()`.

    Use it when you begin: where the tasks' losses have comparable sizes, the published gains of surgery over it are
    small.

    :param reduction: "sum" follows the sum instead, T times as long.
    """

    capturable: ClassVar[bool] = True
    reweights: ClassVar[bool] = False

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """1/T for each task, or 1."""
        return torch.full_like(losses, 1 / len(losses) if self.reduction == "mean" else 1.0)
