"""SDMGrad: near the mean gradient, shorten the combination that holds the tasks in balance, without bias."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import in_range, whole_in_range
from mtrl.aggregators.two_batches import TwoBatches
from mtrl.solvers import project_on_simplex


class SDMGrad(TwoBatches):
    """Follow g_w + lambda g0 with weights w that make it short, from products of two independent batches.

    Xiao, Ban and Ji 2023, "Direction-oriented Multi-objective Learning" (arXiv 2305.18409), Algorithm 1: at each update
    w takes some steps down the gradient J1 J2' (w + lambda / T) of |g_w + lambda g0|^2 / 2 over the simplex, and begins
    where it was; g0 is the mean gradient. As in the authors' code, the steps have momentum, products are relative to
    the gradients' mean length, and the update is divided by 1 + lambda. The paper takes a third batch for the update;
    here it is the mean of the two.

    The steps arrive, with one batch and no lambda at the weights of `mgda`, where `rate` is below 2 (1 + momentum) over
    the largest eigenvalue of the relative products: some 3 for orthogonal gradients, 3 / T where all pull along one
    line. The authors' 10 is beyond that: weights jump from task to task, and with five tasks or more rounding decides
    where to, so that another order of the same tasks soon gives other updates. With 1 it does not, on random gradients.

    MTSAC deals each task's `batch_size` rows out to the two batches, so an update sees as many transitions as with
    others; twice as many gradients make it up to 1.5 times as long as that of `pcgrad`.

    Use it when batches are small, so that weights computed from one of them follow its noise.

    Losses are not looked at, so they may be negative.

    :param reduction: "sum" is T times as long.
    :param lambda_: pull towards the mean gradient, at least 0; the authors' 0.3.
    :param rate: step of the weights, above 0; the authors' 10, which overshoots.
    :param momentum: of these steps, in [0, 1); the authors' 0.5.
    :param steps: at each update, at least 1; the authors' 20.
    """

    capturable: ClassVar[bool] = True

    def __init__(
        self,
        reduction: Reduction = "mean",
        lambda_: float = 0.3,
        rate: float = 10.0,
        momentum: float = 0.5,
        steps: int = 20,
    ) -> None:
        super().__init__(reduction)
        self.lambda_ = in_range("lambda_", lambda_, 0)
        self.rate = in_range("rate", rate, 0, above=True)
        self.momentum = in_range("momentum", momentum, 0, 1, below=True)
        self.steps = whole_in_range("steps", steps, 1)

    def weights(self, gramian: Float[Tensor, "rows rows"], losses: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Take the steps, then weigh."""
        products = self.products(gramian)
        w, preferred = self.learned, self.lambda_ / len(self.learned)
        velocity = torch.zeros_like(w)
        for _ in range(self.steps):
            velocity = self.momentum * velocity + products @ (w + preferred)
            w = project_on_simplex(w - self.rate * velocity)
        self.learn(w)
        return self.dealt((w + preferred) / (1 + self.lambda_))
