"""GradVac: turn each task's gradient until it is as similar to the others as it usually is."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import ROUNDING, Ordered, check_tasks, in_range

MOST = 0.99  # a target of 1 would ask for an infinite step


class GradVac(Ordered, GramianAggregator):
    """Raise the similarity of each pair of task gradients to its running average, conflict or not.

    Wang et al. 2020, "Gradient Vaccine" (arXiv 2010.05874), Algorithm 1 and equation 3: where the cosine of g_i' and
    g_j is below its target, as much of g_j is added as brings it there; the target follows the cosines. The paper sums
    and groups parameters by layer; here all shared parameters are one group, and the mean is taken. Targets are
    kept within 0.99 of zero, because the paper's step has no bound; one visit lengthens g_i' at most sevenfold.

    With `target=0, beta=0` this is PCGrad.

    Use it when tasks are usually similar, and PCGrad, which waits for a conflict, comes too late.

    :param reduction: "sum" gives the paper's scale.
    :param beta: share of the newest cosine in the running average, in [0, 1]; the paper's 0.01.
    :param target: similarity to begin with, in (-1, 1).
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    capturable: ClassVar[bool] = True
    targets: Tensor  # (T, T), float64

    def __init__(self, reduction: Reduction = "mean", beta: float = 0.01, target: float = 0.0, seed: int = 0) -> None:
        super().__init__(reduction, seed)
        self.beta = in_range("beta", beta, 0, 1)
        self.target = in_range("target", target, -1, 1, above=True, below=True)
        self.register_buffer("targets", torch.empty(0, 0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Forget the similarities and begin the sequence of visiting orders again."""
        super().reset(num_tasks, num_params)
        self.targets = self.targets.new_full((num_tasks, num_tasks), self.target)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Row i of `rows` expresses g_i' in the original gradients; `products` holds g_i' . g_k."""
        if not len(self.targets):
            self.reset(len(gramian), 0)
        check_tasks(len(self.targets), len(gramian), self)
        orders = self.draw_orders(len(gramian)).to(gramian.device, non_blocking=True)
        norms = gramian.diagonal().clamp(min=0).sqrt()
        rows = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
        products = gramian.clone()
        for others in orders.T:
            at, norm_j = others[:, None], norms[others]
            squared = torch.linalg.vecdot(rows, products)
            norm_i = torch.where(squared > ROUNDING * (rows.abs() @ norms).square(), squared, 0.0 * squared).sqrt()
            known = norm_i * norm_j != 0  # a zero gradient is similar to none, and nothing is learned from it
            cosine = torch.where(known, products.gather(1, at)[:, 0] / (norm_i * norm_j), 0.0).clamp(-1, 1)
            target = self.targets.gather(1, at)[:, 0].clamp(-MOST, MOST)
            sine, target_sine = (1 - cosine.square()).sqrt(), (1 - target.square()).sqrt()
            amount = norm_i * (target * sine - cosine * target_sine) / (norm_j * target_sine)
            amount = torch.where(known & (cosine < target), amount, 0.0 * cosine)
            rows.scatter_add_(1, at, amount[:, None])
            products += amount[:, None] * gramian[others]
            learned = torch.lerp(target, cosine, self.beta)
            self.targets.scatter_(1, at, torch.where(known & learned.isfinite(), learned, target)[:, None])
        return self.reduce(rows)
