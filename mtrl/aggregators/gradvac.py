"""GradVac: turn each task's gradient until it is as similar to the others as it usually is."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import ROUNDING, Ordered, check_tasks, in_range, yes_or_no

MOST = 0.99  # a target of 1 would ask for an infinite step


class GradVac(Ordered, GramianAggregator):
    """Raise the similarity of each pair of task gradients to its running average, conflict or not.

    Wang et al. 2020, "Gradient Vaccine" (arXiv 2010.05874), Algorithm 1 and equation 3: where the cosine of g_i' and
    g_j is below its target, as much of g_j is added as brings it there; the target follows the cosines. The paper sums;
    here the mean is taken. It also compares groups of parameters by themselves, such as layers: `per_parameter` does so
    with every weight matrix, of all critics of an ensemble together, and every bias; without it all are one group.
    Targets are kept within 0.99 of zero, because the paper's step has no bound; one visit lengthens g_i' at most
    sevenfold.

    With `target=0, beta=0` this is PCGrad.

    Use it when tasks are usually similar, and PCGrad, which waits for a conflict, comes too late.

    Losses are not looked at, so they may be negative.

    :param reduction: "sum" gives the paper's scale.
    :param beta: share of the newest cosine in the running average, in [0, 1]; the paper's 0.01.
    :param target: similarity to begin with, in (-1, 1).
    :param seed: seed of the visiting orders, one fresh order per task and call.
    :param per_parameter: compare and turn each parameter's part of the gradients by itself, with targets of its own; of
        a Jacobian in one piece, which says nothing of parameters, the whole.
    """

    capturable: ClassVar[bool] = True
    targets: Tensor  # (T, T), or (P, T, T) for P parameters, empty until the first call; float64

    def __init__(
        self,
        reduction: Reduction = "mean",
        beta: float = 0.01,
        target: float = 0.0,
        seed: int = 0,
        per_parameter: bool = False,
    ) -> None:
        super().__init__(reduction, seed)
        self.beta = in_range("beta", beta, 0, 1)
        self.target = in_range("target", target, -1, 1, above=True, below=True)
        self.apart = self.per_parameter = yes_or_no("per_parameter", per_parameter)
        self.register_buffer("targets", torch.empty(0, 0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Forget the similarities and begin the sequence of visiting orders again."""
        super().reset(num_tasks, num_params)
        shape = (num_tasks, num_tasks)
        self.targets = self.targets.new_full((0, *shape) if self.apart else shape, self.target)

    def weights(
        self, gramian: Float[Tensor, "*pieces tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, "*pieces tasks"]:
        """Row i of `rows` expresses g_i' in the original gradients; `products` holds g_i' . g_k."""
        num_tasks = gramian.shape[-1]
        if not self.targets.numel():
            self.targets = torch.full_like(gramian, self.target)
        check_tasks(self.targets.shape[-1], num_tasks, self)
        if self.targets.shape != gramian.shape:
            raise ValueError(
                f"{type(self).__name__} has targets for {len(self.targets)} parameters and found {len(gramian)}: its "
                "state belongs to those parameters. Call reset(num_tasks, num_params) to start over"
            )
        orders = self.draw_orders(num_tasks).to(gramian.device, non_blocking=True)
        norms = gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        rows = torch.eye(num_tasks, dtype=gramian.dtype, device=gramian.device).expand_as(gramian).clone()
        products = gramian.clone()
        for others in orders.T:
            at, norm_j = others.expand_as(norms).unsqueeze(-1), norms[..., others]
            squared = torch.linalg.vecdot(rows, products)
            terms = torch.linalg.vecdot(rows.abs(), norms.unsqueeze(-2)).square()
            norm_i = torch.where(squared > ROUNDING * terms, squared, 0.0 * squared).sqrt()
            known = norm_i * norm_j != 0  # a zero gradient is similar to none, and nothing is learned from it
            cosine = torch.where(known, products.gather(-1, at).squeeze(-1) / (norm_i * norm_j), 0.0).clamp(-1, 1)
            target = self.targets.gather(-1, at).squeeze(-1).clamp(-MOST, MOST)
            sine, target_sine = (1 - cosine.square()).sqrt(), (1 - target.square()).sqrt()
            amount = norm_i * (target * sine - cosine * target_sine) / (norm_j * target_sine)
            amount = torch.where(known & (cosine < target), amount, 0.0 * cosine).unsqueeze(-1)
            rows = rows.scatter_add(-1, at, amount)  # not in place, like the next line: both have derivatives
            products = products + amount * gramian[..., others, :]
            learned = torch.lerp(target, cosine, self.beta)
            learned = torch.where(known & learned.isfinite(), learned, target)
            self.targets.scatter_(-1, at, learned.unsqueeze(-1).detach())
        return self.reduce(rows.movedim(-2, 0))
