"""RLW: random weights, the litmus test of all weightings."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import LossAggregator
from mtrl.aggregators.shared import Drawing, on_scale


class RLW(Drawing, LossAggregator):
    """Draw the weights anew at each step: the softmax of independent normal numbers.

    Lin et al. 2022, "Reasonable Effectiveness of Random Weighting" (arXiv 2111.10603), Algorithm 1.

    Use it when another weighting is to be tested: one that is no better than chance is not worth its cost.

    Losses are not looked at, so they may be negative.

    :param reduction: "sum" is T times as long.
    :param seed: seed of the draws.
    """

    capturable: ClassVar[bool] = True

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Return weights of sum 1."""
        device = self.generator.device
        drawn = torch.randn(len(losses), generator=self.generator, dtype=torch.float64, device=device)
        return on_scale(drawn.softmax(0).to(losses.device, non_blocking=True), self.reduction)
