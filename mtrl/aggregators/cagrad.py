"""CAGrad: near the mean gradient, look for the step that helps the worst-off task most."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import SolverAggregator, in_range, on_scale, yes_or_no
from mtrl.solvers import conflict_averse_weights


class CAGrad(SolverAggregator):
    """Maximise the smallest improvement of any task within a ball of radius c |g0| around the mean gradient g0.

    Liu et al. 2021, "Conflict-Averse Gradient Descent" (arXiv 2110.14048), Algorithm 1, solved on the dual to a gap
    of 1e-8 instead of with a general optimizer. The paper's step is up to 1 + c times the mean gradient long, and
    exactly that where the tasks agree; it is divided by 1 + c here, as one variant of the authors' code does.

    A task without gradient cannot be helped: unless the others conflict by more than the ball allows, the mean stands.

    Use it when the worst-off task matters and the mean must still be reached: `c` is a dial from the mean to
    caution.

    :param reduction: "sum" is T times the mean.
    :param c: radius of the ball, at least 0, where this is the mean; the paper's theorems want c < 1.
    :param rescale: False gives the paper's step, not divided by 1 + c.
    """

    capturable: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "mean", c: float = 0.4, rescale: bool = True) -> None:
        super().__init__(reduction)
        self.c = in_range("c", c, 0)
        self.rescale = yes_or_no("rescale", rescale)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """1/T and the solver's part; its best answer, and one more in `fallbacks`, should the gap exceed 1e-6."""
        extra, gap = conflict_averse_weights(gramian, self.c)
        self.count(~(gap <= 1e-6))
        weights = (1 / len(gramian) + extra) / (1 + self.c if self.rescale else 1)
        return on_scale(weights, self.reduction)
