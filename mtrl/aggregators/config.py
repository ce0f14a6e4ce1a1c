"""ConFIG: go where every task's gradient points equally much, as far as the tasks together want to go there."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import SolverAggregator, on_scale
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
        norms = gradient_norms(gramian)
        alive = norms > 0
        y, gains = impartial_weights(gramian)
        failed = gains.sum() <= 1e-12 * alive.sum()
        self.count(failed & alive.any())
        longest = torch.where(alive.any(), norms.amax(), 1.0)
        projection = (norms / longest * gains).mean() / (y @ gains)
        weights = torch.where(alive, y * (longest / norms) * projection, 0.0 * y)
        return on_scale(torch.where(failed, 0.0 * y, weights), self.reduction)
