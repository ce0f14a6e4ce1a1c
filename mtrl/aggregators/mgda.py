"""MGDA: the shortest convex combination of the task gradients."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import SolverAggregator, on_scale
from mtrl.solvers import min_norm_weights


class MGDA(SolverAggregator):
    """Descend for all tasks at once, along the shortest vector in the convex hull of their gradients.

    Desideri 2012, "Multiple-gradient descent algorithm"; Sener and Koltun 2018 (arXiv 1810.04650), problem 3. Solved by
    an interior-point method to a gap of 1e-10 instead of by a Frank-Wolfe method. The weights already sum to 1.

    The update conflicts with no task, and is zero exactly where no direction helps them all. So a task whose gradient
    is zero or very small stops, or slows down, everyone: that is the method, not a fault.

    Use it when no task may be harmed by a step, and a small update is better than one against a task.

    :param reduction: "sum" is T times as long.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the solver's best answer; count a fallback should the gap exceed 1e-8."""
        weights, gap = min_norm_weights(gramian)
        self.count(~(gap <= 1e-8))
        return on_scale(weights, self.reduction)
