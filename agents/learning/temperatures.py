"""The entropy temperatures of T tasks: learned, each by its own task's loss alone or by goals, or fixed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class FixedTemperatures:
    """Temperatures (T,) that stay as they are."""

    def __init__(self, alpha: Float[Tensor, " tasks"]):
        self._alpha = alpha
        self.optimizers: list[torch.optim.Optimizer] = []

    def values(self, observations: Float[Tensor, "all obs"] | None = None) -> Float[Tensor, " tasks"]:
        """Return the temperatures alpha, of a batch's observations."""
        return self._alpha

    def step(self, log_prob: Float[Tensor, "tasks rows"], observations: Float[Tensor, "all obs"] | None = None) -> None:
        """Nothing moves."""

    def restart(self) -> None:
        """Nothing was learned."""


class LearnedTemperatures(FixedTemperatures):
    """Temperatures that keep the policy's entropy at a target (Haarnoja et al. 2018, arXiv 1812.05905, eq. 18).

    :param log_alpha: their logarithms (T,), which the optimizer moves.
    :param target_entropy: of the policy, for every task.
    :param minimum: the temperatures do not fall below it.
    :param maximum: nor rise above it; 0: they may.
    :param shared: all follow the mean of the tasks' losses, and so stay one (Kurin et al. 2022, arXiv 2201.04122).
    """

    def __init__(
        self,
        log_alpha: Float[Tensor, " tasks"],
        optimizer: torch.optim.Adam,
        target_entropy: float,
        minimum: float = 0.0,
        maximum: float = 0.0,
        shared: bool = False,
    ):
        self.log_alpha, self.optimizer = log_alpha, optimizer
        self._target_entropy, self._shared = target_entropy, shared
        self._limits = [math.log(limit) if limit else None for limit in (minimum, maximum)]
        self.hold()
        self._start = float(log_alpha[0].detach())
        self.optimizers = [optimizer]

    def hold(self) -> None:
        """Bring the temperatures to where the limits are, in place."""
        if any(limit is not None for limit in self._limits):
            self.log_alpha.data.clamp_(*self._limits)

    def values(self, observations: Float[Tensor, "all obs"] | None = None) -> Float[Tensor, " tasks"]:
        """Return the temperatures alpha, as a tensor of its own."""
        return self.log_alpha.detach().exp()

    def step(self, log_prob: Float[Tensor, "tasks rows"], observations: Float[Tensor, "all obs"] | None = None) -> None:
        """Descend the loss -log alpha_i (mean_B log pi + target entropy) of each task i."""
        # it is linear in log alpha: its gradient needs no autograd
        gradient = -(log_prob.detach() + self._target_entropy).mean(-1)
        self.log_alpha.grad = gradient.mean().expand_as(gradient).clone() if self._shared else gradient
        self.optimizer.step()
        self.hold()

    @torch.no_grad()
    def restart(self) -> None:
        """Go back to the first temperatures."""
        self.log_alpha.fill_(self._start)


class GoalTemperatures(LearnedTemperatures):
    """A temperature for every goal z, alpha(z) = exp(w z + b): with a one-hot for z that would be one per task.

    (Yu et al. 2020, arXiv 2001.06782, Appendix J.3.) A task's rows in a batch have one goal: that of its first row.

    :param log_alpha: w and then b, (G + 1,): w at 0, and b the logarithm of the first temperature.
    :param num_tasks: T, whose one-hot are the last columns of an observation; the G before them are the goal.
    """

    def __init__(
        self, log_alpha: Float[Tensor, " numbers"], optimizer: torch.optim.Adam, target_entropy: float, num_tasks: int
    ):
        super().__init__(log_alpha, optimizer, target_entropy)
        self._start, self._num_tasks = float(log_alpha[-1].detach()), num_tasks

    def values(self, observations: Float[Tensor, "all obs"] | None = None) -> Float[Tensor, " tasks"]:
        """Return the temperatures alpha of each task's goal in the batch."""
        return (self._inputs(observations) @ self.log_alpha.detach()).exp()

    def step(self, log_prob: Float[Tensor, "tasks rows"], observations: Float[Tensor, "all obs"] | None = None) -> None:
        """Descend the mean over the batch's goals of -log alpha(z) (mean_B log pi + target entropy)."""
        per_goal = -(log_prob.detach() + self._target_entropy).mean(-1)
        self.log_alpha.grad = per_goal @ self._inputs(observations) / self._num_tasks
        self.optimizer.step()

    @torch.no_grad()
    def restart(self) -> None:
        """Go back to the first temperature, for all goals."""
        self.log_alpha.zero_()
        self.log_alpha[-1] = self._start

    def _inputs(self, observations: Float[Tensor, "all obs"] | None) -> Float[Tensor, "tasks numbers"]:
        assert observations is not None
        first = observations.unflatten(0, (self._num_tasks, -1))[:, 0]
        ends = first.shape[1] - self._num_tasks
        return F.pad(first[:, ends + 1 - len(self.log_alpha) : ends], (0, 1), value=1.0)
