"""PCGrad: remove from each task's gradient what works against another task."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction


class PCGrad(GramianAggregator):
    """Project each task's gradient off the gradients that it conflicts with.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning" (arXiv 2001.06782), Algorithm 1. The paper sums the
    projected gradients; here they are averaged, the scale that all aggregators share.

    :param reduction: "sum" gives the paper's scale.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    def __init__(self, reduction: Reduction = "mean", seed: int = 0) -> None:
        super().__init__(reduction)
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Begin the sequence of visiting orders again."""
        self.generator.manual_seed(self.seed)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Row i of ``coefficients`` expresses the projected g_i in the original gradients; all rows move at once."""
        orders = self.draw_orders(len(gramian)).to(gramian.device, non_blocking=True)
        norms2 = gramian.diagonal()[:, None]
        per_unit = torch.where(norms2 > 0, gramian / norms2, 0.0)  # row j: g_j / |g_j|^2; a zero g_j projects nothing
        visited = per_unit[orders.T]  # (visits, tasks, tasks), gathered in one go
        coefficients = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
        for others, rows in zip(orders.T.unsqueeze(-1), visited, strict=True):
            conflict = torch.linalg.vecdot(coefficients, rows).clamp(max=0)  # (g_i' . g_j) / |g_j|^2 where negative
            coefficients.scatter_add_(1, others, -conflict[:, None])
        return self.reduce(coefficients)

    def draw_orders(self, num_tasks: int) -> Int[Tensor, "tasks visits"]:
        """For each task an own random order of the T - 1 others, drawn on the CPU: the same on every device."""
        keys = torch.rand(num_tasks, num_tasks, generator=self.generator, dtype=torch.float64)
        return keys.fill_diagonal_(2.0).argsort(dim=1)[:, :-1]  # the task itself comes last and is left out

    def get_extra_state(self) -> Tensor:
        """State of the generator, so that a resumed run draws the same orders."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continue the orders where the saved run stopped."""
        self.generator.set_state(state.cpu())
