"""Smoothed weights: do not let one batch decide how much a task counts."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator
from mtrl.aggregators.shared import check_tasks, in_range


class Smoothed(GramianAggregator):
    """Average the weights of another method over the updates.

    Zhou et al. 2022, "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond" (NeurIPS), the
    correction that makes CR-MOGM: weights = smoothing * weights before + (1 - smoothing) * the method's own. Weights
    that a method computes from a batch depend on its noise, so their product with the gradients of the same batch is
    biased; averaged weights hardly do. The first call takes the method's own. The paper lets `smoothing` grow as the
    learning rate falls; here it stays.

    What a method promises of one update (to conflict with no task, or its length) holds for the average no longer.
    Weights that are not finite are not remembered.

    Use it when batches are small and the method's weights jump from update to update, as those of solvers do.

    :param smoothing: how much of the weights before stays, in [0, 1).
    """

    average: Tensor  # as the weights, (T,) as a rule, float64; empty until the first call

    def __init__(self, smoothing: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.smoothing = in_range("smoothing", smoothing, 0, 1, below=True)
        self.register_buffer("average", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Start over with the method, and forget its weights."""
        super().reset(num_tasks, num_params)
        rows = num_tasks * self.batches
        self.average = self.average.new_full((0, rows) if self.apart else (rows,), torch.nan)

    def weights(
        self, gramian: Float[Tensor, "*pieces tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, "*pieces tasks"]:
        """Return the method's weights, averaged with those before."""
        own = super().weights(gramian, losses)  # type: ignore[safe-super]  # the method's: see `wrapped`
        if not self.average.numel():
            self.average = torch.full_like(own, torch.nan)
        check_tasks(self.average.shape[-1], own.shape[-1], self)
        averaged = torch.lerp(own, torch.where(self.average.isnan(), own, self.average), self.smoothing)
        sound = averaged.isfinite().all() & gramian.isfinite().all()
        self.average.copy_(torch.where(sound, averaged, self.average).detach())
        return averaged
