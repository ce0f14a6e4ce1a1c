"""MoCoGrad: where two tasks conflict, steer by where the other task has been going."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import Ordered, begin, check_tasks, in_range
from mtrl.rows import Rows


class MoCoGrad(Ordered):
    """Add, for each task that a task's gradient conflicts with, some of that other task's momentum.

    Chai et al. 2024, "Towards Task-Conflicts Momentum-Calibrated Approach for Multi-task Learning" (ICDE). In a random
    order, where g_i' . g_j < 0: g_i' += strength |g_j| m_j / |m_j|. The paper sums; here the mean is taken.

    m_j is the task's own momentum with its present gradient folded in, m_j = momentum m_j + (1 - momentum) g_j, before
    any task is steered by it. The authors' code (ZeyuLiu0706/MoCoGrad) folds the present gradient in, too, but into the
    one first moment of Adam that all tasks share. The other reading, the momentum of the steps before, leaves the first
    update to the mean; the two differ by some 12 % of the update.

    A constant strength leaves it off the optimum of the sum where there are more than two tasks, by more the larger the
    strength: even there each task is moved by those in conflict with it, and how many these are differs. For two tasks
    the added terms cancel, and it arrives (docs/theory.md).

    Costs one more row per task in memory, in float32 whatever the gradients are.

    Use it when single batches are so noisy that a conflict in one of them says little.

    :param reduction: "sum" gives the paper's scale.
    :param strength: the paper's lambda, at least 0, where this is the mean. The authors' code gives no default. 0.1 is
        a choice, no optimum: of 0.03, 0.1 and 0.3 on fourteen binary tasks (yeast) each was worse than the mean, by
        2.3, 4.7 and 4.3 points of delta_m (`python -m scripts.supervised yeast`, docs/supervised.md).
    :param momentum: how much of the momentum stays at each step, in [0, 1); the paper's beta_1.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    capturable: ClassVar[bool] = True
    momenta: Tensor  # (T, P), float32

    def __init__(
        self, reduction: Reduction = "mean", strength: float = 0.1, momentum: float = 0.9, seed: int = 0
    ) -> None:
        super().__init__(reduction, seed)
        self.strength = in_range("strength", strength, 0)
        self.momentum = in_range("momentum", momentum, 0, 1, below=True)
        self.register_buffer("momenta", torch.empty(0, 0, dtype=torch.float32))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Forget the momenta and begin the sequence of visiting orders again."""
        super().reset(num_tasks, num_params)
        self.momenta = self.momenta.new_zeros(num_tasks, num_params)

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Everything is a combination of the 2T rows [g; m]: only their inner products enter the loop."""
        begin(self, len(self.momenta), *jacobian.shape)
        check_tasks(self.momenta.shape[1], jacobian.shape[1], self, "parameters")
        newer = torch.lerp(self.momenta, jacobian.to(self.momenta.dtype), 1 - self.momentum)
        gramian, rows = Rows([torch.cat([jacobian, newer.to(jacobian.dtype)])]).measured()
        (update,) = rows.combine(self.reduce(self.calibrated(gramian)))
        sound = gramian.diagonal()[: len(jacobian), None].isfinite()  # a row with NaN or infinity is not remembered
        self.momenta.copy_(torch.where(sound, newer, self.momenta).detach())
        return update

    def calibrated(self, gramian: Float[Tensor, "rows rows"]) -> Float[Tensor, "tasks rows"]:
        """Row i expresses g_i' in gradients and momenta."""
        num_tasks = len(gramian) // 2
        orders = self.draw_orders(num_tasks).to(gramian.device, non_blocking=True)
        g_norms, m_norms = gramian.diagonal().clamp(min=0).sqrt().split(num_tasks)
        amounts = torch.where(m_norms == 0, 0.0, self.strength * g_norms / m_norms)
        rows = torch.eye(num_tasks, 2 * num_tasks, dtype=gramian.dtype, device=gramian.device)
        for others in orders.T:
            product = torch.linalg.vecdot(rows, gramian[others])
            added = torch.where(product < 0, amounts[others], 0.0 * product)
            rows = rows.scatter_add(1, num_tasks + others[:, None], added[:, None])  # not in place: it has a derivative
        return rows
