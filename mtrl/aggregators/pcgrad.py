"""PCGrad: remove from each task's gradient what works against another task."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator
from mtrl.aggregators.shared import Ordered


class PCGrad(Ordered, GramianAggregator):
    """Project each task's gradient off the gradients that it conflicts with.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning" (arXiv 2001.06782), Algorithm 1. The paper sums the
    projected gradients; here they are averaged, the scale that all aggregators share.

    :param reduction: "sum" gives the paper's scale.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Mean, or sum, of the projected gradients."""
        orders = self.draw_orders(len(gramian)).to(gramian.device, non_blocking=True)
        return self.reduce(project_conflicts(gramian, orders))


def project_conflicts(
    gramian: Float[Tensor, "tasks tasks"], orders: Int[Tensor, "tasks visits"]
) -> Float[Tensor, "tasks tasks"]:
    """Row i expresses the projected g_i in the original gradients; all rows move at once, one visit at a time."""
    norms2 = gramian.diagonal()[:, None]
    per_unit = torch.where(norms2 > 0, gramian / norms2, 0.0)  # row j: g_j / |g_j|^2; a zero g_j projects nothing
    visited = per_unit[orders.T]  # (visits, tasks, tasks), gathered in one go
    coefficients = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    for others, rows in zip(orders.T.unsqueeze(-1), visited, strict=True):
        conflict = torch.linalg.vecdot(coefficients, rows).clamp(max=0)  # (g_i' . g_j) / |g_j|^2 where negative
        coefficients.scatter_add_(1, others, -conflict[:, None])
    return coefficients
