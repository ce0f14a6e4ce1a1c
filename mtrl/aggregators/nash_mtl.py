"""Nash-MTL: the update that the tasks would agree on if each bargained for its own gain."""

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import Reduction
from mtrl.aggregators.shared import SolverAggregator, begin, on_scale, whole_in_range, with_length_of_mean, yes_or_no
from mtrl.solvers import bargaining_weights


class NashMTL(SolverAggregator):
    """Follow the Nash bargaining solution: weights a > 0 with G a = 1 / a, so that no task's length dominates.

    Navon et al. 2022, "Multi-Task Learning as a Bargaining Game" (arXiv 2202.01017), Claim 3.1 and Algorithm 1; solved
    by a damped Newton method to a residual of 1e-8 instead of by a sequence of convex programs. The paper's update has
    the length sqrt(T) whatever the gradients, clipped in the authors' code; here it gets that of the mean gradient.

    Where some convex combination of the gradients vanishes, there is nothing to agree on: `fallbacks` counts it, and
    the weights are the limit that a ridge of 1e-15 allows, whose update is short before it is rescaled and 0 where
    it is only rounding. A task without gradient gets weight 0.

    Use it when no task's length may dominate and none may be harmed, and the solver's time is no matter.

    :param reduction: "sum" is T times as long.
    :param every: solve at every so many calls and keep the weights in between, at least 1.
    :param rescale: False keeps the paper's length.
    """

    solution: Tensor  # (T,), float64

    def __init__(self, reduction: Reduction = "mean", every: int = 1, rescale: bool = True) -> None:
        super().__init__(reduction)
        self.every = whole_in_range("every", every, 1)
        self.rescale = yes_or_no("rescale", rescale)
        self.calls = 0  # on the host, which decides when to solve: not capturable
        self.register_buffer("solution", torch.empty(0, dtype=torch.float64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Forget the weights: the next call solves."""
        super().reset(num_tasks, num_params)
        self.calls = 0
        self.solution = self.solution.new_zeros(num_tasks)

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the bargaining solution, present or kept, at the length of the mean."""
        begin(self, len(self.solution), len(gramian))
        weights = self.solution.clone()
        if self.calls % self.every == 0:
            solution, residual = bargaining_weights(gramian)
            # one that is not finite is not kept; without an earlier one the calls until the next follow the mean
            before = torch.where(self.solution.any(), self.solution, 1.0)
            weights = torch.where(solution.isfinite().all(), solution, before)
            self.solution.copy_(weights.detach())
            self.count(~(residual <= 1e-6))
        self.calls += 1
        weights = weights + 0 * gramian.diagonal().sum()  # not finite where a gradient is not
        if self.rescale:
            weights = with_length_of_mean(gramian, weights)
        return on_scale(weights, self.reduction)

    def get_extra_state(self) -> Tensor:
        """Return the number of calls, so that a resumed run solves when the other would have."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue to count where the saved run stopped."""
        self.calls = int(state)
