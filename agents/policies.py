"""The task-conditioned actor and critics: one network for all tasks, told by a one-hot which task a row belongs to."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.networks import EnsembleLinear, TaskHeads, torso

Precision = Literal["float32", "tf32", "bfloat16"]
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class _MultiTaskNetwork(nn.Module):
    """What actor and critic share: the number of tasks, the heads, and which parameters take part in surgery."""

    optimizer: torch.optim.Optimizer
    torso: nn.Module
    head: nn.Module
    precision: str = "float32"  # MultiTaskPolicy sets it

    def __init__(self, num_tasks: int, multi_head: bool):
        super().__init__()
        self.num_tasks = num_tasks
        self.multi_head = multi_head

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to one task each (the heads of the multi-head form): never projected."""
        return list(self.head.parameters()) if self.multi_head else []

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that all tasks share: the ones that surgery sees."""
        own = {id(p) for p in self.task_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def _outputs(self, inputs: Tensor, observations: Tensor, blocks: bool) -> Tensor:
        """What the head makes of the hidden layers; only these multiply in less precision, and only in training.

        The head is a thousandth of the work, and its outputs (values, log-probabilities) need every digit.
        """
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=blocks and self.precision == "bfloat16"):
            hidden = self.torso(inputs)
        hidden = hidden.to(inputs.dtype)
        if not self.multi_head:
            return self.head(hidden)
        return self.head(hidden, None if blocks else observations[:, -self.num_tasks :])


class MultiTaskActor(_MultiTaskNetwork):
    """A tanh-squashed diagonal Gaussian policy; the last T of the D observation columns are a one-hot of the task."""

    def __init__(
        self, obs_dim: int, action_dim: int, num_tasks: int, width: int, depth: int, layer_norm: bool, multi_head: bool
    ):
        super().__init__(num_tasks, multi_head)
        self.torso = torso(obs_dim, width, depth, layer_norm)
        self.head = TaskHeads(num_tasks, width, 2 * action_dim) if multi_head else nn.Linear(width, 2 * action_dim)

    def _distribution(self, observations: Tensor, blocks: bool) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(observations, observations, blocks)
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def forward(self, observations: Float[Tensor, "rows obs"], deterministic: bool = False) -> Tensor:
        """Actions (rows, A) in (-1, 1), for rows in any order."""
        mean, log_std = self._distribution(observations, blocks=False)
        return torch.tanh(mean if deterministic else mean + log_std.exp() * torch.randn_like(mean))

    def action_log_prob(
        self, observations: Float[Tensor, "rows obs"], blocks: bool = False, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparametrised actions (rows, A) and their log-probabilities (rows,).

        The constant 1e-6 in the squashing correction is Stable-Baselines3's.

        :param blocks: the rows lie in T equal task blocks.
        :param noise: standard normal numbers (rows, A) to use instead of fresh ones.
        """
        mean, log_std = self._distribution(observations, blocks)
        noise = torch.randn_like(mean) if noise is None else noise
        actions = torch.tanh(mean + log_std.exp() * noise)
        log_prob = -0.5 * noise.square() - log_std - LOG_SQRT_2PI - torch.log(1 - actions.square() + 1e-6)
        return actions, log_prob.sum(-1)


class MultiTaskCritic(_MultiTaskNetwork):
    """N state-action values side by side: (rows, D) and (rows, A) -> (N, rows). All N form one parameter vector."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        num_tasks: int,
        width: int,
        depth: int,
        layer_norm: bool,
        multi_head: bool,
        n_critics: int,
    ):
        super().__init__(num_tasks, multi_head)
        self.n_critics = n_critics
        self.torso = torso(obs_dim + action_dim, width, depth, layer_norm, num_members=n_critics)
        self.head = (
            TaskHeads(num_tasks, width, 1, batch_shape=(n_critics,))
            if multi_head
            else EnsembleLinear(n_critics, width, 1)
        )

    def forward(self, observations: Tensor, actions: Tensor, blocks: bool = False) -> Float[Tensor, "critics rows"]:
        """Q values; `blocks` says that the rows lie in T equal task blocks (else the one-hot picks the head)."""
        rows = torch.cat([observations, actions], dim=-1).expand(self.n_critics, -1, -1)
        return self._outputs(rows, observations, blocks).squeeze(-1)


class MultiTaskPolicy(BasePolicy):
    """Actor, critics and target critics of a multi-task SAC, sized apart.

    :param num_tasks: T; set by MTSAC from its environment.
    :param actor_width: units of each hidden layer of the actor; `actor_depth` layers.
    :param critic_width: units of each hidden layer of each critic; `critic_depth` layers.
    :param layer_norm: LayerNorm before each ReLU, in actor and critics.
    :param multi_head: one output layer per task instead of one for all.
    :param n_critics: number of critics; the target takes their minimum.
    :param precision: of the products in the hidden layers during training: "float32", or "bfloat16", faster where the
        device has units for it. Weights, optimizer, heads, surgery and acting stay in float32. "tf32" is for CUDA:
        all products of an update but those of surgery, heads included, round their factors to 10 bits.
    :param optimizer_kwargs: further options of Adam, such as `eps`.
    """

    actor: MultiTaskActor
    critic: MultiTaskCritic
    critic_target: MultiTaskCritic

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        num_tasks: int,
        actor_width: int = 400,
        actor_depth: int = 3,
        critic_width: int = 400,
        critic_depth: int = 3,
        layer_norm: bool = False,
        multi_head: bool = False,
        n_critics: int = 2,
        precision: str = "float32",
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(observation_space, action_space, optimizer_kwargs=optimizer_kwargs or {}, squash_output=True)
        sizes = {"actor_width": actor_width, "actor_depth": actor_depth, "critic_width": critic_width}
        for name, value in {**sizes, "critic_depth": critic_depth, "n_critics": n_critics}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if precision not in get_args(Precision):
            raise ValueError(f"precision is one of {', '.join(get_args(Precision))}; found {precision!r}.")
        shape = (observation_space.shape[0], action_space.shape[0], num_tasks)
        form: dict[str, Any] = {"layer_norm": layer_norm, "multi_head": multi_head}
        self.actor = MultiTaskActor(*shape, width=actor_width, depth=actor_depth, **form)
        critic = {"width": critic_width, "depth": critic_depth, "n_critics": n_critics, **form}
        self.critic = MultiTaskCritic(*shape, **critic)
        self.critic_target = MultiTaskCritic(*shape, **critic)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        for network in (self.actor, self.critic, self.critic_target):
            network.precision = precision
        for network in (self.actor, self.critic):
            # fused: one pass over parameters and moments instead of one per operation
            options = {"fused": True, **self.optimizer_kwargs}
            network.optimizer = torch.optim.Adam(network.parameters(), lr=lr_schedule(1), **options)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        return self.actor(observation.to(next(self.actor.parameters()).dtype), deterministic)

    forward = _predict
