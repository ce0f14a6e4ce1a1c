"""FAMO: bring all losses down at the same relative speed, without looking at a gradient."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import LossAggregator, Reduction
from mtrl.aggregators.shared import begin, check_tasks, in_range, on_scale

SMALLEST = 1e-8  # of a loss, as in the authors' code: log 0 has no value


class FAMO(LossAggregator):
    """Weigh the losses so that each falls by the same share; learn the weights from what the last step did.

    Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization" (arXiv 2306.03792), Algorithm 1: weights
    proportional to z_i / loss_i with z = softmax(logits), scaled to sum 1; after the step, the logits descend along
    (dz/dlogits)' (log loss before - log loss after). A plain step with weight decay, as in the paper; the authors' code
    uses Adam. Needs `after_step` with the losses of the same batch, one more forward pass per step; without it the
    logits stay equal.

    FAMO is made for positive losses. One that has been negative (an actor's loss in SAC, say) is read as loss + 2 m,
    with m the size of the lowest value seen so far: positive, at least m, and on the scale of the loss itself. A
    change is then relative to that level. Losses that were never negative are not shifted.
    A loss that is not finite leaves the state as it is.

    Use it when losses are positive and per-task gradients cost too much: it needs none.

    :param reduction: "sum" is T times as long.
    :param rate: step of the logits, above 0; the paper's 0.025.
    :param decay: pull of the logits towards equal weights, at least 0; the paper's gamma, 0.001.
    """

    capturable: ClassVar[bool] = True
    logits: Tensor  # (T,), float64
    before: Tensor  # (T,), float64: losses that the last weights were made for
    lowest: Tensor  # (T,), float64: the lowest loss so far, at most 0

    def __init__(self, reduction: Reduction = "mean", rate: float = 0.025, decay: float = 0.001) -> None:
        super().__init__(reduction)
        self.rate = in_range("rate", rate, 0, above=True)
        self.decay = in_range("decay", decay, 0)
        for name in ("logits", "before", "lowest"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Equal logits, and nothing seen yet."""
        self.logits = self.logits.new_zeros(num_tasks)
        self.before = self.before.new_full((num_tasks,), torch.nan)
        self.lowest = self.lowest.new_zeros(num_tasks)

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """z_i / loss_i, scaled to sum 1."""
        begin(self, len(self.logits), len(losses))
        self.before.copy_(losses.detach())
        self._see(self.before)
        weights = self.logits.softmax(0) / self._shifted(self.before)
        return on_scale(weights / weights.sum(), self.reduction)

    def after_step(self, losses: Float[Tensor, " tasks"]) -> None:
        """Favour the tasks whose losses fell by the smallest share."""
        check_tasks(len(self.logits), len(losses), self)
        after = losses.detach().double()
        self._see(after)
        fall = self._shifted(self.before).log() - self._shifted(after).log()
        z = self.logits.softmax(0)
        slope = z * (fall - z @ fall)
        step = self.rate * (slope + self.decay * self.logits)
        self.logits.copy_(torch.where(step.isfinite().all(), self.logits - step, self.logits))

    def _see(self, losses: Tensor) -> None:
        self.lowest.copy_(torch.where(losses.isfinite(), torch.minimum(self.lowest, losses), self.lowest))

    def _shifted(self, losses: Tensor) -> Tensor:
        return (losses - 2 * self.lowest).clamp(min=SMALLEST)
