"""A deterministic actor, which explores by noise that is added to its actions: what TD3 learns."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agents.networks.actor_critic import Actor
from agents.networks.form import Form


class DeterministicActor(Actor):
    """Actions mu(s) = tanh(network(s)); to explore, clip(mu(s) + sigma noise, -1, 1).

    :param exploration_noise: sigma.
    """

    def __init__(self, form: Form, obs_dim: int, action_dim: int, exploration_noise: float):
        super().__init__(form, obs_dim, 0, action_dim)
        self._exploration_noise = exploration_noise

    def forward(
        self, observations: Float[Tensor, "rows obs"], deterministic: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """Actions (rows, A) in [-1, 1], for rows in any order."""
        actions = torch.tanh(self._outputs(observations, blocks=False))
        if deterministic or self._exploration_noise == 0:
            return actions
        noise = torch.randn_like(actions) if noise is None else noise
        return (actions + self._exploration_noise * noise).clamp(-1, 1)

    def actions(self, observations: Float[Tensor, "rows obs"]) -> Float[Tensor, "rows actions"]:
        """mu(s) in training: the rows lie in T equal task blocks."""
        return torch.tanh(self._outputs(observations, blocks=True))
