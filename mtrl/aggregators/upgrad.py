"""UPGrad: move each task's gradient as little as makes it harm nobody, then average."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import SolverAggregator
from mtrl.solvers import dual_cone_weights


class UPGrad(SolverAggregator):
    """Average the projections of the gradients on the cone of the directions that conflict with no task.

    Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization" (arXiv 2406.16232), Section 3 and
    Proposition 1; the T quadratic programs are solved together by an interior-point method in float64, on gradients of
    length 1, so that none is regularised. It is what PCGrad is for two tasks, and what PCGrad only approaches for
    more: one projection on all the tasks at once, with no order.

    Use it when no task may be harmed by a step, however many tasks there are, and steps should still grow with the
    gradients; with many tasks that conflict in all directions it stops, as `mgda` does.

    Losses are not looked at, so they may be negative. A task without gradient neither moves nor is moved.

    :param reduction: "sum" is T times as long.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Mean, or sum, of the projections; one more in `fallbacks` should the residual exceed 1e-6."""
        projections, residual = dual_cone_weights(gramian)
        self.count(~(residual <= 1e-6))
        return self.reduce(projections)
