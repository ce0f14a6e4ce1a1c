"""DB-MTL: balance the losses by their logarithms, and the gradients by their lengths."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Aggregator, Reduction
from mtrl.aggregators.shared import begin, check_tasks, in_range, on_scale, with_length, yes_or_no
from mtrl.diagnostics import gradient_norms
from mtrl.rows import Rows

SMALLEST = 1e-8  # of a loss, as in the authors' code: log 0 has no value


class DBMTL(Aggregator):
    """Average the gradients of the logarithms of the losses over the updates, and bring them all to one length.

    Lin et al. 2023, "Dual-Balancing for Multi-Task Learning" (arXiv 2308.12029), Algorithm 1: the gradient of log L_i
    is g_i / L_i; its average m_i keeps a share beta / k^decay of itself at update k; the update is the sum of the
    m_i max_j |m_j| / |m_i|. The paper sums; here the mean is taken, and it gets the length of the mean gradient: that
    of the paper is relative to the losses, so it would not suit one learning rate with other methods.

    Costs one more row per task in memory, in float32 whatever the gradients are.

    Use it when losses are positive and of very different sizes, and single batches are noisy.

    For losses from 0 on: one below 0 has no logarithm, and the update is then not a number. MTSAC takes it for the
    critic alone. A task without gradient gets weight 0.

    :param reduction: "sum" is T times as long; with `rescale=False` the paper's scale.
    :param beta: how much of an average stays at the first update, in [0, 1); the authors' 0.9.
    :param decay: how fast that falls, at least 0, where it stays; the authors' 0.5.
    :param rescale: False keeps the paper's length.
    """

    capturable: ClassVar[bool] = True
    non_negative: ClassVar[bool] = True
    averages: Tensor  # (T, P), float32
    updates: Tensor  # (), int64: so many have been

    def __init__(
        self, reduction: Reduction = "mean", beta: float = 0.9, decay: float = 0.5, rescale: bool = True
    ) -> None:
        super().__init__(reduction)
        self.beta = in_range("beta", beta, 0, 1, below=True)
        self.decay = in_range("decay", decay, 0)
        self.rescale = yes_or_no("rescale", rescale)
        self.register_buffer("averages", torch.empty(0, 0, dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Forget the averages."""
        self.averages = self.averages.new_zeros(num_tasks, num_params)
        self.updates = torch.zeros_like(self.updates)

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Average, then combine at equal lengths; a row with NaN or infinity is not remembered."""
        begin(self, len(self.averages), *jacobian.shape)
        check_tasks(self.averages.shape[1], jacobian.shape[1], self, "parameters")
        kept = (self.beta / (self.updates + 1).double() ** self.decay).to(jacobian.dtype)
        sizes = torch.where(losses < 0, torch.nan, losses.to(jacobian.dtype)).clamp(min=SMALLEST)
        newer = torch.lerp(jacobian / sizes[:, None], self.averages.to(jacobian.dtype), kept)
        gramian, rows = Rows([newer]).measured()
        norms = gradient_norms(gramian)
        weights = torch.where(norms == 0, 0.0, norms.amax() / norms) / len(norms)
        if self.rescale:
            mean = Rows([jacobian.mean(0, keepdim=True)]).measured()[0].sqrt()
            weights = with_length(gramian, weights, mean.squeeze())
        (update,) = rows.combine(on_scale(weights, self.reduction))
        sound = norms.isfinite()
        self.averages.copy_(torch.where(sound[:, None], newer, self.averages).detach())
        self.updates += sound.all()
        return update
