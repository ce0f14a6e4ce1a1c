"""ConicGrad: help the worst-off task, within a cone around the mean gradient."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import begin, in_range, length, on_scale
from mtrl.diagnostics import gradient_norms


class ConicGrad(GramianAggregator):
    """Look for the direction that helps the worst-off task most among those with a cosine of at least c to the mean.

    Hassanpour et al. 2025, "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone" (arXiv 2502.00217):
    max over d of min over weights w of g_w . d, where d has the length of the mean gradient g0 and g_w is the weighted
    mean. For given weights the best d has a closed form: the direction of g_w where that lies in the cone, else the
    edge of the cone on its side, derived here from that problem. The weights are learned, one step per update, here of
    exponentiated gradient descent: w_i times exp(-rate g_i . d), with g_i . d relative to the longest gradient and to
    d, so that it does not depend on the gradients' scale. The defaults of `c` and `rate` are ours.

    `cagrad` limits how far the update may be from the mean, this one how much it may turn, whatever its length.

    Use it when the worst-off task matters, the mean must still be reached, and steps should keep the mean's length.

    Losses are not looked at, so they may be negative.

    :param reduction: "sum" is T times as long.
    :param c: smallest cosine to the mean gradient, above 0; 1 is the mean, and 0.5 lets the update turn by 60 degrees.
    :param rate: step of the logarithms of the weights, above 0.
    """

    capturable: ClassVar[bool] = True
    logits: Tensor  # (T,), float64

    def __init__(self, reduction: Reduction = "mean", c: float = 0.5, rate: float = 0.1) -> None:
        super().__init__(reduction)
        self.c = in_range("c", c, 0, 1, above=True)
        self.rate = in_range("rate", rate, 0, above=True)
        self.register_buffer("logits", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Begin with equal weights: the mean."""
        self.logits = self.logits.new_zeros(num_tasks)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the direction for the present weights, then adapt them by one step."""
        begin(self, len(self.logits), len(gramian))
        d = self.in_cone(gramian, self.logits.softmax(0))
        step = self.rate * (gramian @ d) / (gradient_norms(gramian).amax() * length(gramian, d))
        newer = (self.logits - step.detach()).log_softmax(0)
        self.logits.copy_(torch.where(step.isfinite().all(), newer, self.logits))
        return on_scale(d, self.reduction)

    def in_cone(
        self, gramian: Float[Tensor, "tasks tasks"], weights: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Weights of the d in the cone, as long as the mean gradient, with the largest product with `weights @ J`."""
        plain = torch.full_like(weights, 1 / len(weights))
        mean, size = length(gramian, plain), length(gramian, weights)
        along = weights @ gramian @ plain / mean
        aside = weights - along / mean * plain  # what of the weighted gradient is orthogonal to the mean
        across = length(gramian, aside)
        edge = self.c * plain + math.sqrt(1 - self.c**2) * mean / across * aside
        d = torch.where(along >= self.c * size, weights * (mean / size), edge)
        d = torch.where(across > 0, d, plain)  # no side to turn to
        return torch.where(mean == 0, 0.0, d)
