"""What methods share that see each task's gradient on two independent batches."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import begin, on_scale
from mtrl.diagnostics import gradient_norms


class TwoBatches(GramianAggregator):
    """Weights that descend along products of the gradients of one batch with those of another.

    The product of two gradients of the *same* batch is too large on average, by the variance of their noise; of
    independent batches it is right. With `batches = 2` rows 2i and 2i + 1 are task i's gradients of the two, and the
    update combines both at half the weight. With one batch its products with itself take the place.

    The state is the weights, which each call goes on with, and which begin equal.
    """

    wanted_batches: ClassVar[int] = 2
    learned: Tensor  # (T,), float64, of sum 1

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("learned", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Begin with equal weights."""
        self.learned = self.learned.new_full((num_tasks,), 1 / num_tasks)

    def products(self, gramian: Float[Tensor, "rows rows"]) -> Float[Tensor, "tasks tasks"]:
        """Products of the first batch's gradients with the last one's, over the squared mean length."""
        num_tasks = len(gramian) // self.batches
        begin(self, len(self.learned), num_tasks)
        norms = gradient_norms(gramian).view(num_tasks, self.batches)
        size2 = (norms[:, 0] * norms[:, -1]).sqrt().mean().square()
        across = gramian.view(num_tasks, self.batches, num_tasks, self.batches)[:, 0, :, -1]
        return across / torch.where(size2 == 0, 1.0, size2)

    def learn(self, weights: Float[Tensor, " tasks"]) -> None:
        """Go on with these weights, unless they are not finite."""
        self.learned.copy_(torch.where(weights.isfinite().all(), weights, self.learned).detach())

    def dealt(self, weights: Float[Tensor, " tasks"]) -> Float[Tensor, " rows"]:
        """Weights of the rows, from those of the tasks, on the scale asked for."""
        return on_scale(weights, self.reduction).repeat_interleave(self.batches) / self.batches
