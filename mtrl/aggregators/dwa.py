"""DWA: favour the losses that fall slowly."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import begin, in_range, on_scale, whole_in_range
from mtrl.aggregators.weighting import Weighting


class DWA(Weighting):
    """Weigh each loss by how little it fell: softmax of (its last average / the one before) / temperature.

    Liu et al. 2019, "End-to-End Multi-Task Learning with Attention" (arXiv 1803.10704), equation 7. The averages are
    over epochs there; here over `window` updates, which `scripts.supervised` sets to an epoch's. The paper's weights
    have the sum T, here 1. Equal weights until two averages are there.

    Use it when tasks learn at different speeds and per-task gradients cost too much.

    Losses must not be negative. One that is not finite counts in no average.

    :param reduction: "sum" gives the paper's scale.
    :param temperature: above 0; the larger, the more equal the weights. The paper's 2.
    :param window: updates in an average.
    """

    capturable: ClassVar[bool] = True
    averages: Tensor  # (3, T), float64: the one before the last, the last, and the sum of the losses since
    count: Tensor  # (), float64: how many these are

    def __init__(self, reduction: Reduction = "mean", temperature: float = 2.0, window: int = 100) -> None:
        super().__init__(reduction)
        self.temperature = in_range("temperature", temperature, 0, above=True)
        self.window = whole_in_range("window", window, 1)
        self.register_buffer("averages", torch.empty(3, 0, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Equal weights, and nothing seen yet."""
        self.averages = self.averages.new_zeros(3, num_tasks)
        self.averages[:2] = torch.nan
        self.count = torch.zeros_like(self.count)

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Return the present weights, then count the losses in."""
        begin(self, self.averages.shape[1], len(losses))
        values = self.seen(losses)
        before, last, total = self.averages
        ratios = torch.where(before.isnan(), 1.0, last / before)
        weights = on_scale((ratios / self.temperature).softmax(0), self.reduction)
        sound = values.isfinite().all()
        total = torch.where(sound, total + values, total)
        count = self.count + sound
        full = count >= self.window
        average = total / count.clamp(min=1)
        kept = torch.stack([torch.where(full, last, before), torch.where(full, average, last), total * ~full])
        self.averages.copy_(kept)
        self.count.copy_(count * ~full)
        return torch.where(values.isnan(), torch.nan, weights)
