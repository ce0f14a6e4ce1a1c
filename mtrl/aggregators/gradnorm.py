"""GradNorm: learn weights that keep the tasks' gradients equally long, longer for those that lag behind."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import begin, in_range, on_scale
from mtrl.diagnostics import gradient_norms


class GradNorm(GramianAggregator):
    """Learn positive weights w of sum T, so that |w_i g_i| follows the tasks' average times r_i^alpha.

    Chen et al. 2018 (arXiv 1711.02257), equations 1 and 2, Algorithm 1; r_i is how far the loss of task i is from its
    first value, relative to the average task. As in the paper, the step uses the weights from before their own update.
    Deviations: all shared parameters take the place of the last shared layer; the weights' objective, sum_i
    | |w_i g_i| - target_i |, is divided by the average length and its step is taken on log w, so that the method does
    not depend on the gradients' scale and weights stay positive; a plain step instead of Adam's.

    Losses that are not positive have no training rate: such a task (an actor's loss in SAC, say) takes part with
    r_i = 1, that is, only its gradient's length is balanced; `fallbacks` counts those tasks, call by call.
    A loss or gradient that is not finite leaves the weights as they are.

    Use it when losses are positive and fall at different speeds, and a slow rebalancing is enough.

    :param reduction: "sum" gives the paper's scale.
    :param alpha: how much a lagging task is favoured, at least 0, where all lengths become equal; the paper's 1.5.
    :param rate: step of the logarithms of the weights, above 0; the paper's 0.025.
    """

    capturable: ClassVar[bool] = True
    log_weights: Tensor  # (T,), float64
    first_losses: Tensor  # (T,), float64, NaN until the task's first finite loss
    fallbacks: Tensor

    def __init__(self, reduction: Reduction = "mean", alpha: float = 1.5, rate: float = 0.025) -> None:
        super().__init__(reduction)
        self.alpha = in_range("alpha", alpha, 0)
        self.rate = in_range("rate", rate, 0, above=True)
        self.register_buffer("log_weights", torch.empty(0, dtype=torch.float64))
        self.register_buffer("first_losses", torch.empty(0, dtype=torch.float64))
        self.register_buffer("fallbacks", torch.zeros((), dtype=torch.int64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Equal weights, and the next losses are the first."""
        self.log_weights = self.log_weights.new_zeros(num_tasks)
        self.first_losses = self.first_losses.new_full((num_tasks,), torch.nan)
        self.fallbacks = torch.zeros_like(self.fallbacks)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the present weights, then adapt them by one step."""
        begin(self, len(self.log_weights), len(gramian))
        shares = self.log_weights.softmax(0)
        self.learn(shares * gradient_norms(gramian), losses.detach().double())
        return on_scale(shares, self.reduction)

    @torch.no_grad()
    def learn(self, lengths: Float[Tensor, " tasks"], losses: Float[Tensor, " tasks"]) -> None:
        """Step on log w down the gradient of sum_i | lengths_i - average r_i^alpha |, targets held constant."""
        self.first_losses.copy_(torch.where(self.first_losses.isfinite(), self.first_losses, losses))
        rated = (losses > 0) & (self.first_losses > 0) & losses.isfinite()
        self.fallbacks += (~rated).sum()
        ratios = torch.where(rated, losses / self.first_losses, torch.nan)
        rates = torch.where(rated, ratios / ratios.nanmean(), 1.0)
        average = lengths.mean()
        slope = torch.sign(lengths - average * rates**self.alpha) * lengths / average
        step = torch.where(slope.isfinite(), self.rate * slope, 0.0)
        self.log_weights.copy_((self.log_weights - step).log_softmax(0))
