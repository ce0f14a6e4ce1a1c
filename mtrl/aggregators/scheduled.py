"""Scheduled surgery: at some updates only, or after a start without it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator
from mtrl.aggregators.shared import whole_in_range


class Scheduled(GramianAggregator):
    """Follow another method at every so many updates from a given one on, and the mean at the others.

    The method sees every update, so its averages and its drawn orders go on, and nothing is decided on the host: a
    captured CUDA graph holds both. So it saves no time. Where the method shall be asked more rarely, because its solver
    is slow, Nash-MTL has `every`.

    Use it when the question is *when* surgery helps: in the beginning, later, or at every update.

    :param period: follow the method at every so many updates, at least 1.
    :param start: follow the mean in so many updates first, at least 0; updates of this network, not environment steps.
    """

    updates: Tensor  # (), int64: so many have been

    def __init__(self, period: int = 1, start: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.period = whole_in_range("period", period, 1)
        self.start = whole_in_range("start", start, 0)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Start over with the method, and count from zero."""
        super().reset(num_tasks, num_params)
        self.updates = torch.zeros_like(self.updates)

    def weights(
        self, gramian: Float[Tensor, "*pieces tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, "*pieces tasks"]:
        """Return the method's weights if it is its turn, else those of the mean, or sum."""
        own = super().weights(gramian, losses)  # type: ignore[safe-super]  # the method's: see `wrapped`
        number = self.updates - self.start
        self.updates += 1
        plain = self.reduce(torch.eye(own.shape[-1], dtype=own.dtype, device=own.device))
        return torch.where((number >= 0) & (number % self.period == 0), own, plain)
