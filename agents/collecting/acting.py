"""Choosing actions to explore with: held noise, and a device that is asked once per vector step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agents.device.graphs import Graphs, Replays
from agents.device.transfer import HostBlock
from agents.networks.actor_critic import Actor
from agents.networks.policies import MultiTaskPolicy


@runtime_checkable
class Acting(Protocol):
    """Draws actions."""

    def __call__(self, observations: np.ndarray, step: int = 0) -> np.ndarray:
        """Actions (rows, A) in (-1, 1) for observations (rows, D) at a vector step."""


def there_and_back(policy: MultiTaskPolicy, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return actions as the environment and as the buffer takes them.

    They are scaled and scaled back, so with the rounding of Stable-Baselines3.
    """
    stored = policy.scale_action(actions)
    return policy.unscale_action(stored), stored


class HeldNoise:
    """Draws actions whose normal noise stays the same for `hold` vector steps.

    :param rows: E T, number of columns of the environment.
    """

    def __init__(self, actor: Actor, hold: int, rows: int, action_dim: int):
        self._actor, self._hold, self._shape = actor, hold, (rows, action_dim)
        self.noise: Float[Tensor, "rows actions"] | None = None

    @torch.no_grad()
    def __call__(self, observations: np.ndarray, step: int = 0) -> np.ndarray:
        """Actions (rows, A) in (-1, 1) for observations (rows, D) at a vector step."""
        parameter = next(self._actor.parameters())
        if self.noise is None or step % self._hold == 0:
            self.noise = torch.randn(self._shape, device=parameter.device)
        rows = torch.as_tensor(observations, device=parameter.device, dtype=parameter.dtype)
        return self._actor(rows, noise=self.noise).cpu().numpy()

    def load_noise(self, noise: Tensor | None) -> None:
        """Go on with this noise, unless it is of another number of columns."""
        fits = noise is not None and noise.shape == self._shape
        self.noise = noise.to(next(self._actor.parameters()).device) if noise is not None and fits else None


class DeviceActing:
    """Draws actions as `predict` does, with the same numbers from the same generator.

    One copy of the observations goes up, one of the actions comes down, for which the host waits. With `graphs` the
    network and its noise are one captured graph, after a few eager calls; it follows the parameters, which change in
    place.

    :param graphs: what captures; None: each call runs eagerly.
    """

    def __init__(self, actor: Actor, graphs: Graphs | None = None):
        self.actor = actor
        self.replays = Replays(graphs, "Acting") if graphs else None
        self._shape: tuple[int, ...] = ()

    def __call__(self, observations: np.ndarray, step: int = 0) -> np.ndarray:
        """Actions (rows, A) in (-1, 1) for observations (rows, D)."""
        if observations.shape != self._shape:
            self._begin(observations.shape)
        self._up.writable().copy_(torch.as_tensor(observations))
        self._up.send(self._observations)
        if self.replays is None:
            self._sample()
        else:
            self.replays.run("sample", self._sample)
        return self._down.fetch(self._actions)

    @torch.no_grad()
    def _begin(self, shape: tuple[int, ...]) -> None:
        """Make the tensors that stay; a graph of other ones is of no use any more."""
        parameter = next(self.actor.parameters())
        self._observations = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        self._actions = self.actor(self._observations, deterministic=True)
        self._up, self._down = HostBlock(self._observations), HostBlock(self._actions)
        self._shape = shape
        if self.replays is not None:
            self.replays.forget()

    @torch.no_grad()
    def _sample(self) -> None:
        self._actions.copy_(self.actor(self._observations))
