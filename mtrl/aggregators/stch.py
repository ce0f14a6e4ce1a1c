"""STCH: the smooth maximum of the losses."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import begin, in_range, on_scale
from mtrl.aggregators.weighting import LEAST, Weighting


class STCH(Weighting):
    """Descend along a smooth maximum of the losses, each relative to its first value: the worst task leads.

    Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization" (arXiv 2402.19078), equation 6:
    mu log sum_i exp(lambda_i (L_i - z_i) / mu), with z = 0 and lambda_i = 1 / (first loss of task i), as losses have
    units. Its gradient's weights are scaled to sum 1. A task that has had no loss above 0 yet has no weight.

    Use it when the worst task counts, not the average.

    Losses must not be negative.

    :param reduction: "sum" is T times as long.
    :param mu: how smooth, above 0: near 0 the worst task alone has weight; the paper tries 0.01 to 1.
    """

    capturable: ClassVar[bool] = True
    first_losses: Tensor  # (T,), float64, NaN until the task's first loss above 0

    def __init__(self, reduction: Reduction = "mean", mu: float = 0.1) -> None:
        super().__init__(reduction)
        self.mu = in_range("mu", mu, 0, above=True)
        self.register_buffer("first_losses", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Take the next losses as the first."""
        self.first_losses = self.first_losses.new_full((num_tasks,), torch.nan)

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Return the softmax of the relative losses over mu, each divided by its first loss."""
        begin(self, len(self.first_losses), len(losses))
        values = self.seen(losses)
        sound = self.first_losses.isnan() & values.isfinite() & (losses > 0)
        self.first_losses.copy_(torch.where(sound, values, self.first_losses))
        scales = torch.where((losses == 0) & self.first_losses.isnan(), torch.inf, self.first_losses)
        weights = (values / scales / self.mu).softmax(0) / scales
        return on_scale(weights / weights.sum().clamp(min=LEAST), self.reduction)
