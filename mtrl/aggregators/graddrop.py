"""GradDrop: of the gradients that pull one number both ways, let either the positive or the negative ones pass."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import Drawing, in_range


class GradDrop(Drawing):
    """Draw a sign for each parameter, positive as likely as its gradients are, and drop the gradients of the other.

    Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout" (arXiv
    2010.06808), Algorithm 1 with the identity for f: positive with probability (1 + sum_i g_i / sum_i |g_i|) / 2,
    number by number. The paper masks the gradients of the last shared activations, batch row by batch row; here, as in
    TorchJD, those of the shared parameters are masked. The paper sums; here the mean is taken, over all tasks.

    In expectation the update is the mean: with sums p of the positive and n of the negative gradients' sizes, p passes
    with probability p / (p + n), and n otherwise, so (p^2 - n^2) / (p + n) = p - n. It adds noise where tasks disagree.

    Use it when some noise towards single tasks is welcome, to leave places where their gradients cancel.

    Losses are not looked at, so they may be negative. Needs the whole (T, P) matrix.

    :param reduction: "sum" gives the paper's scale.
    :param leak: how much of a dropped gradient passes all the same, in [0, 1]; 1 is the mean.
    :param seed: seed of the drawn signs.
    """

    capturable: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "mean", leak: float = 0.0, seed: int = 0) -> None:
        super().__init__(reduction, seed)
        self.leak = in_range("leak", leak, 0, 1)

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Mask, then reduce; where all gradients are zero, the purity is NaN and nothing passes."""
        device = self.generator.device  # in float32 whatever the gradients are: other types draw other numbers
        levels = torch.rand(jacobian.shape[1], generator=self.generator, dtype=torch.float32, device=device)
        positive = (1 + jacobian.sum(0) / jacobian.abs().sum(0)) / 2 > levels.to(jacobian.device, non_blocking=True)
        passes = (jacobian > 0) == positive
        return self.reduce((self.leak + (1 - self.leak) * passes) * jacobian)
