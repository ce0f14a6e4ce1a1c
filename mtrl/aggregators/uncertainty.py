"""Uncertainty weights: each loss over a scale that is learned with it."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import begin, in_range, on_scale
from mtrl.aggregators.weighting import Weighting


class Uncertainty(Weighting):
    """Weigh each loss by the inverse of a variance that is learned: small where the loss is large.

    Kendall et al. 2018 (arXiv 1705.07115), Section 3.2: sum_i (exp(-s_i) L_i + s_i) / 2 is minimised over the
    log-variances s_i as well, which are 0 at first. Deviations: the weights are scaled to sum 1, as one learning rate
    serves all methods; and the step of s_i is its slope over the sum of the slope's two terms, which is
    tanh((log L_i - s_i) / 2), times `rate`: no loss, however large, throws it off. (Adam bounds its steps, too.)

    Use it when losses have different units and per-task gradients cost too much; before surgery (`uncertainty:pcgrad`)
    it is the setting of the PCGrad paper's best result on NYUv2.

    Losses must not be negative. One of exactly 0, as that of a task with no rows in the batch, teaches nothing.

    :param reduction: "sum" is T times as long.
    :param rate: largest step of a log-variance, above 0.
    """

    capturable: ClassVar[bool] = True
    log_variances: Tensor  # (T,), float64

    def __init__(self, reduction: Reduction = "mean", rate: float = 0.01) -> None:
        super().__init__(reduction)
        self.rate = in_range("rate", rate, 0, above=True)
        self.register_buffer("log_variances", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Equal weights."""
        self.log_variances = self.log_variances.new_zeros(num_tasks)

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Return the present weights, then take a step towards s_i = log L_i."""
        begin(self, len(self.log_variances), len(losses))
        values = self.seen(losses)
        weights = on_scale((-self.log_variances).softmax(0), self.reduction)
        step = self.rate * ((values.log() - self.log_variances) / 2).tanh()
        self.log_variances.add_(torch.where(step.isfinite() & (losses > 0), step, 0.0))
        return torch.where(values.isnan(), torch.nan, weights)
