"""PCGrad without chance: the tasks are visited in their own order."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator
from mtrl.aggregators.projection import project_conflicts


class PCGradFixed(GramianAggregator):
    """Project each task's gradient off those that it conflicts with, always visiting task 1 first.

    The ablation of Yu et al. 2020 (arXiv 2001.06782) that shows why PCGrad draws its orders: the last task visited has
    the last word, here always the same one. For two tasks it is PCGrad.

    Use it when PCGrad helped, to find out what its random orders are worth; it favours tasks by their number.

    :param reduction: "sum" gives the paper's scale.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Mean, or sum, of the projected gradients."""
        return self.reduce(project_conflicts(gramian, fixed_orders(len(gramian), gramian.device)))


def fixed_orders(num_tasks: int, device: torch.device) -> Int[Tensor, "tasks visits"]:
    """For each task the others, ascending."""
    visits = torch.arange(num_tasks - 1, device=device)
    return visits + (visits >= torch.arange(num_tasks, device=device)[:, None])
