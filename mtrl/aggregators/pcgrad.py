"""PCGrad: remove from each task's gradient what works against another task."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator
from mtrl.aggregators.projection import project_conflicts
from mtrl.aggregators.shared import Ordered


class PCGrad(Ordered, GramianAggregator):
    """Project each task's gradient off the gradients that it conflicts with.

    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning" (arXiv 2001.06782), Algorithm 1. The paper sums the
    projected gradients; here they are averaged, the scale that all aggregators share.

    Use it when gradients conflict, differ in length and the losses curve (`python -m scripts.triad` measures that).

    :param reduction: "sum" gives the paper's scale.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Mean, or sum, of the projected gradients."""
        orders = self.draw_orders(len(gramian)).to(gramian.device, non_blocking=True)
        return self.reduce(project_conflicts(gramian, orders))
