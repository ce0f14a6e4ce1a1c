"""How Stable-Baselines3 and Meta-World ask for actions, the same for agents, policies and actors by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor


def actions_of(policy: Any, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
    """Return the actions of the policy's `actor`, in its precision: a policy's `_predict` and `forward`."""
    assert isinstance(observation, Tensor)
    return policy.actor(observation.to(next(policy.actor.parameters()).dtype), deterministic)


def eval_action(agent: Any, observations: np.ndarray) -> np.ndarray:
    """Deterministic actions (rows, A): what `metaworld.evaluation.evaluation` calls."""
    return agent.predict(observations, deterministic=True)[0]


def reset(agent: Any, env_mask: np.ndarray) -> None:
    """Nothing to do at an episode's start: the policy has no memory (`metaworld.evaluation` calls this)."""
