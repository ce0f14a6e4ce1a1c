"""ConFIG: go where every task's gradient points equally much, as far as the tasks together want to go there."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import SolverAggregator, of_directions
from mtrl.diagnostics import gradient_norms
from mtrl.solvers import impartial_weights


class ConFIG(SolverAggregator):
    """Step in the direction that has the same cosine with every gradient, as long as their projections on it.

    Liu et al. 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks" (arXiv 2408.11104),
    equations 2 and 3. The paper's length is the sum of the projections; here it is their mean. The pseudo-inverse is
    taken of the unit gradients' Gramian. The direction is that of `imtl_g`, whose length has no bound where tasks
    conflict; this one is never longer than the mean of the gradients' lengths, and short where they conflict.

    Use it when losses of unlike kinds meet, whose gradients' lengths say nothing of their importance, and there are
    clearly fewer tasks than parameters.

    Losses are not looked at, so they may be negative. Of linearly independent gradients the update conflicts with none;
    of dependent ones the cosines are as equal as they can be. Where they cannot be positive on the whole, the update is
    0, and `fallbacks` counts it. A task without gradient has no direction and gets weight 0.

    :param reduction: "sum" gives the paper's scale.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """w_i = y_i / |g_i| times the mean projection, with y the weights of the unit gradients."""
        y, gains = impartial_weights(gramian)
        norms = gradient_norms(gramian)
        failed = gains.sum() <= 1e-12 * (norms > 0).sum()
        projection = (norms / norms.amax() * gains).mean() / (y @ gains)
        return self.unless(failed, gramian, of_directions(gramian, y) * projection)
