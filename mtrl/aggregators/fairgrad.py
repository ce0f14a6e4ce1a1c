"""FairGrad: share the progress of an update out among the tasks as fairly as a network shares out its bandwidth."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import SolverAggregator, in_range, on_scale, with_length_of_mean, yes_or_no
from mtrl.solvers import bargaining_weights


class FairGrad(SolverAggregator):
    """Follow the alpha-fair update: weights w > 0 with G w = w^(-1/alpha), so that whoever gains less weighs more.

    Ban and Ji 2024, "Fair Resource Allocation in Multi-Task Learning" (arXiv 2402.15638), equation 4 and Algorithm 1;
    solved by a damped Newton method to a residual of 1e-8 instead of by scipy's least squares. It is the step within a
    ball that maximises sum_i gain_i^(1 - alpha) / (1 - alpha) for the gains (G w)_i: with alpha = 1 it is Nash-MTL's,
    towards 0 the mean's, and towards infinity the one that helps the worst-off task most. The paper's step grows as
    |g|^((1 - alpha) / (1 + alpha)), so against the gradients if alpha > 1; here it gets the length of the mean.

    Use it when you want a dial for how much lengths count: with alpha below 1 long gradients count for more, with 1
    their lengths do not matter, as in `nash_mtl`, and above 1 short ones count for more.

    Losses are not looked at, so they may be negative. Where some convex combination of the gradients vanishes, no step
    helps every task: `fallbacks` counts it, and the update is 0 where it is only rounding. A task without gradient gets
    weight 0.

    :param reduction: "sum" is T times as long.
    :param alpha: how much fairness counts, above 0; 2 as in the authors' scripts for Meta-World. From some 5 on,
        gradients whose lengths differ a thousandfold are beyond the solver, which `fallbacks` counts.
    :param rescale: False keeps the paper's length.
    """

    capturable: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "mean", alpha: float = 2.0, rescale: bool = True) -> None:
        super().__init__(reduction)
        self.alpha = in_range("alpha", alpha, 0, above=True)
        self.rescale = yes_or_no("rescale", rescale)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the weights at the length of the mean; one more in `fallbacks` should the residual exceed 1e-6."""
        weights, residual = bargaining_weights(gramian, self.alpha)
        self.count(~(residual <= 1e-6))
        if self.rescale:
            weights = with_length_of_mean(gramian, weights)
        return on_scale(weights, self.reduction)
