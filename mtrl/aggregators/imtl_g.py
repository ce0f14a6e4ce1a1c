"""IMTL-G: make the same progress, in units of each gradient's length, on every task."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import SolverAggregator, of_directions
from mtrl.solvers import impartial_weights


class IMTLG(SolverAggregator):
    """Combine the gradients so that the update has the same projection on each of their directions.

    Liu et al. 2021, "Towards Impartial Multi-task Learning" (ICLR), equation 4: weights of sum 1, some perhaps
    negative. The paper solves a system that is singular for dependent gradients; here the unit gradients' Gramian is
    inverted on its range. A task without gradient has no direction and gets weight 0.

    All projections are equal, but they can all be negative, and the update can be longer than any gradient: sum 1 is
    the paper's scale, kept as the mean's. Where the weights sum to less than 1e-12 of their size, the update is 0, and
    `fallbacks` counts it.

    Use it when the gradients' lengths say nothing of the tasks' importance.

    :param reduction: "sum" is T times as long.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """With unit gradients u: find y such that (u u') y = 1, then take y_i / |g_i|, scaled to sum 1."""
        y, _ = impartial_weights(gramian)
        weights = of_directions(gramian, y)
        total = weights.sum()
        return self.unless(total.abs() <= 1e-12 * weights.abs().sum(), gramian, weights / total)
