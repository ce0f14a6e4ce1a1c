"""An actor on the CPU with the parameters of an earlier time: what acts while the actor itself is learning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from agents.collecting.acting import there_and_back
from agents.networks.policies import MultiTaskPolicy


@torch.no_grad()
def actor_parameters(policy: MultiTaskPolicy) -> Float[Tensor, " parameters"]:
    """Return the actor's parameters of now in a tensor of its own, where the actor lives."""
    return parameters_to_vector(policy.actor.parameters())


class ActorCopy:
    """Draws actions with the parameters that it was given last, and with noise from a generator of its own.

    :param noise_hold: vector steps for which the noise stays the same.
    """

    def __init__(self, policy: MultiTaskPolicy, noise_hold: int, seed: int):
        self._policy, self._noise_hold = policy, noise_hold
        without_optimizer: dict[int, Any] = {id(policy.actor.optimizer): None}
        self._actor = copy.deepcopy(policy.actor, without_optimizer).cpu().requires_grad_(False)
        # a stream of its own: other generators begin with the agent's seed as it is
        self._generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
        self._noise: Tensor | None = None
        self.load(actor_parameters(policy).cpu())

    def load(self, parameters: Float[Tensor, " parameters"]) -> None:
        """Act with these from now on; they lie on the CPU, are not copied, and must not change.

        :raises ValueError: if they are of an actor of another size.
        """
        expected = sum(parameter.numel() for parameter in self._actor.parameters())
        if parameters.shape != (expected,):
            raise ValueError(f"expected the {expected} parameters of an actor, found {tuple(parameters.shape)}")
        self._parameters = parameters
        vector_to_parameters(parameters, self._actor.parameters())

    @torch.no_grad()
    def act(self, observations: np.ndarray, number: int, at_random: bool) -> tuple[np.ndarray, np.ndarray]:
        """Actions for vector step `number`, as the environment and as the buffer takes them: (E T, A) each.

        :param at_random: uniformly from the action space, as in the warm-up.
        """
        if at_random:
            drawn = np.array([self._policy.action_space.sample() for _ in observations])
        else:
            rows = torch.as_tensor(observations, dtype=self._parameters.dtype)
            if self._noise is None or number % self._noise_hold == 0:
                shape = (len(rows), *self._policy.action_space.shape)  # type: ignore[misc]
                self._noise = torch.randn(shape, generator=self._generator, dtype=rows.dtype)
            drawn = self._policy.unscale_action(self._actor(rows, noise=self._noise).numpy())
        return there_and_back(self._policy, drawn)

    def state_dict(self) -> dict[str, Any]:
        """Parameters, noise and generator."""
        return {"parameters": self._parameters, "noise": self._noise, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.load(state["parameters"])
        self._noise = state["noise"]
        self._generator.set_state(state["generator"])
