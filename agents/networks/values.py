"""What a critic's outputs mean: a number, or a distribution over fixed returns; and the loss that teaches them.

A critic that learns a distribution by cross entropy has gradients of one size whatever the size of the task's returns,
if these are brought to the range of the bins (see `agents.learning.returns`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# value (*rows, K) at the next state -> value (*rows, K) here: reward, discount and entropy are in it
Backup = Callable[[Tensor], Tensor]


class ScalarValue(nn.Module):
    """One output per critic: the value. The loss is Stable-Baselines3's, 0.5 (q - y)^2."""

    num_outputs = 1

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return what to add to the outputs of a new network."""
        return torch.zeros(1)

    def value(self, outputs: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch"]:
        """Return the expected return that the outputs stand for."""
        return outputs.squeeze(-1)

    def reduce(self, outputs: Float[Tensor, "critics *rows outputs"], reduction: str) -> Float[Tensor, "*rows"]:
        """One value per row, of all critics: their minimum or their mean."""
        values = self.value(outputs)
        return values.amin(0) if reduction == "min" else values.mean(0)

    def target(
        self, outputs: Float[Tensor, "critics *rows outputs"], backup: Backup, reduction: str
    ) -> Float[Tensor, "*rows targets"]:
        """Return what the critics of this state are to learn, from the target critics' outputs at the next."""
        return backup(self.reduce(outputs, reduction).unsqueeze(-1))

    def loss(self, outputs: Float[Tensor, "critics *rows outputs"], target: Tensor) -> Float[Tensor, " critics *rows"]:
        """Return half the squared error of each critic and row."""
        return 0.5 * (outputs - target).squeeze(-1).square()


class HistogramValue(ScalarValue):
    """A histogram of returns over `bins` equal steps from -v_max to v_max, learned by cross entropy.

    This class is HL-Gauss (Farebrother et al. 2024, arXiv 2403.03950): the target is a normal distribution around
    the scalar target, 0.75 bins wide, cut off at the ends. A return outside of [-v_max, v_max] counts as the end.

    :param bins: number of returns, at least 2.
    """

    WIDTH = 0.75  # standard deviation of the target in bins
    returns: Tensor

    def __init__(self, bins: int, v_max: float):
        super().__init__()
        self.num_outputs = bins
        self.step = 2 * v_max / (bins - 1)
        self.v_max = v_max
        self.register_buffer("returns", torch.linspace(-v_max, v_max, bins, dtype=torch.float64), persistent=False)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Logits of returns around zero, v_max / 10 wide.

        From a flat histogram C51 takes 1 / (1 - gamma) rounds of the target network to narrow down.
        """
        return -0.5 * (10 * self.returns / self.v_max).square()

    def value(self, outputs: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch"]:
        """Return the mean of the histogram whose logits these are."""
        return outputs.softmax(-1) @ self.returns.to(outputs.dtype)

    def target(
        self, outputs: Float[Tensor, "critics *rows outputs"], backup: Backup, reduction: str
    ) -> Float[Tensor, "*rows targets"]:
        """Probabilities of the bins."""
        mean = super().target(outputs, backup, reduction).clamp(-self.v_max, self.v_max)
        edges = self.returns.to(mean.dtype) - self.step / 2
        edges = torch.cat([edges, edges[-1:] + self.step])
        below = torch.erf((edges - mean) / (math.sqrt(2) * self.WIDTH * self.step))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def loss(self, outputs: Float[Tensor, "critics *rows outputs"], target: Tensor) -> Float[Tensor, " critics *rows"]:
        """Cross entropy of each critic and row."""
        return -(target * F.log_softmax(outputs, -1)).sum(-1)


class CategoricalValue(HistogramValue):
    """C51 (Bellemare et al. 2017, arXiv 1707.06887, Algorithm 1): the next state's whole distribution is backed up.

    Of several target critics it is the mean distribution ("mean"; Nauman et al. 2025, arXiv 2505.23150), or that of
    the critic with the least value ("min").
    """

    def target(
        self, outputs: Float[Tensor, "critics *rows outputs"], backup: Backup, reduction: str
    ) -> Float[Tensor, "*rows targets"]:
        """Probabilities of the bins: those of the moved bins, each shared by its two neighbours."""
        probabilities = outputs.softmax(-1)
        if reduction == "mean":
            probabilities = probabilities.mean(0)
        else:
            least = self.value(outputs).argmin(0)[None, ..., None].expand(1, *probabilities.shape[1:])
            probabilities = probabilities.gather(0, least).squeeze(0)
        shape = (*probabilities.shape[:-1], self.num_outputs)
        moved = backup(self.returns.to(outputs.dtype).expand(shape)).clamp(-self.v_max, self.v_max)
        place = ((moved + self.v_max) / self.step).clamp(0, self.num_outputs - 1)
        lower = place.floor()
        upper_share = place - lower
        target = torch.zeros_like(probabilities)
        target.scatter_add_(-1, lower.long(), probabilities * (1 - upper_share))
        upper = (lower.long() + 1).clamp(max=self.num_outputs - 1)  # its share is zero where it is clamped
        return target.scatter_add_(-1, upper, probabilities * upper_share)


def make_value(critic_head: str, bins: int, v_max: float) -> ScalarValue:
    """Return what the outputs of a critic mean, by settings of `agents.settings.NetworkSettings`."""
    if critic_head == "scalar":
        return ScalarValue()
    return (CategoricalValue if critic_head == "c51" else HistogramValue)(bins, v_max)
