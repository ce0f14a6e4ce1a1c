"""MoDo: one step at a time towards the shortest convex combination of the gradients, without bias."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import in_range
from mtrl.aggregators.two_batches import TwoBatches
from mtrl.solvers import project_on_simplex


class MoDo(TwoBatches):
    """Follow the gradients at weights that take one step towards those of `mgda` per update, from two batches.

    Chen et al. 2024, "Three-Way Trade-Off in Multi-Objective Learning" (JMLR 25), equation 2.9: w
    descends along J1 J2' w + rho w and is projected on the simplex, then the update is the mean over the two batches.
    Deviation: products are relative to the gradients' mean length, so that the method does not depend on their scale.

    MTSAC deals each task's `batch_size` rows out to the two batches, so an update sees as many transitions as with
    others; twice as many gradients make it up to 1.5 times as long as that of `pcgrad`.

    Use it when `mgda` follows the noise of single batches: these weights move slowly, and without its bias.

    Losses are not looked at, so they may be negative.

    :param reduction: "sum" is T times as long.
    :param rate: step of the weights, above 0; the paper's gamma.
    :param rho: pull towards equal weights, at least 0.
    """

    capturable: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "mean", rate: float = 0.1, rho: float = 0.1) -> None:
        super().__init__(reduction)
        self.rate = in_range("rate", rate, 0, above=True)
        self.rho = in_range("rho", rho, 0)

    def weights(self, gramian: Float[Tensor, "rows rows"], losses: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Take the step, then weigh."""
        products, w = self.products(gramian), self.learned.clone()  # which the step overwrites
        w = project_on_simplex(w - self.rate * (products @ w + self.rho * w))
        self.learn(w)
        return self.dealt(w)
