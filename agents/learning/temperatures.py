"""The entropy temperatures of T tasks: learned, each by its own task's loss alone, or fixed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


class FixedTemperatures:
    """Temperatures (T,) that stay as they are."""

    def __init__(self, alpha: Float[Tensor, " tasks"]):
        self._alpha = alpha
        self.optimizers: list[torch.optim.Optimizer] = []

    def values(self) -> Float[Tensor, " tasks"]:
        """Return the temperatures alpha."""
        return self._alpha

    def step(self, log_prob: Float[Tensor, "tasks rows"]) -> None:
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
        self._start = float(log_alpha[0].detach())
        self.optimizers = [optimizer]

    def values(self) -> Float[Tensor, " tasks"]:
        """Return the temperatures alpha, as a tensor of its own."""
        return self.log_alpha.detach().exp()

    def step(self, log_prob: Float[Tensor, "tasks rows"]) -> None:
        """Descend the loss -log alpha_i (mean_B log pi + target entropy) of each task i."""
        # it is linear in log alpha: its gradient needs no autograd
        gradient = -(log_prob.detach() + self._target_entropy).mean(-1)
        self.log_alpha.grad = gradient.mean().expand_as(gradient).clone() if self._shared else gradient
        self.optimizer.step()
        if any(limit is not None for limit in self._limits):
            self.log_alpha.data.clamp_(*self._limits)

    @torch.no_grad()
    def restart(self) -> None:
        """Go back to the first temperatures."""
        self.log_alpha.fill_(self._start)
