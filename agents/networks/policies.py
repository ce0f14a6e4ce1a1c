"""The task-conditioned actor and critics: one network for all tasks, told by a one-hot which task a row belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from agents.networks.layers import EnsembleLinear, TaskColumns, TaskEmbedding, TaskHeads, torso
from agents.networks.values import ScalarValue, make_value
from agents.settings import Conditioning, Precision, Torso

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class NetworkSize:
    """Size and form of one network; see `MultiTaskPolicy`."""

    width: int
    depth: int
    layer_norm: bool
    torso: str
    num_tasks: int
    multi_head: bool
    conditioning: str
    embedding_size: int


class _MultiTaskNetwork(nn.Module):
    """What actor and critic share: how the task enters, the heads, and which parameters take part in surgery.

    The last T of the observation's columns are a one-hot of the task.

    :param others: further input columns, beside the observation.
    :param num_outputs: of the head.
    :param num_members: N networks side by side; None: one, without a dimension for it.
    """

    optimizer: torch.optim.Optimizer
    precision: str = "float32"  # MultiTaskPolicy sets it

    def __init__(self, size: NetworkSize, obs_dim: int, others: int, num_outputs: int, num_members: int | None = None):
        super().__init__()
        self.num_tasks, self.num_members = size.num_tasks, num_members
        self.multi_head, self.conditioning = size.multi_head, size.conditioning
        members = () if num_members is None else (num_members,)
        plain = obs_dim - size.num_tasks + others  # columns without the one-hot
        if size.conditioning == "embedding":
            self.embedding = TaskEmbedding(size.num_tasks, size.embedding_size, members)
        columns = {"one-hot": plain + size.num_tasks, "embedding": plain + size.embedding_size}.get(
            size.conditioning, plain
        )
        own = size.num_tasks if size.conditioning == "own-columns" else None
        self.torso = torso(columns, size.width, size.depth, size.layer_norm, num_members, size.torso, own)
        self.head: nn.Module
        if size.multi_head:
            self.head = TaskHeads(size.num_tasks, size.width, num_outputs, members)
        elif num_members is None:
            self.head = nn.Linear(size.width, num_outputs)
        else:
            self.head = EnsembleLinear(num_members, size.width, num_outputs)

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to one task each (its head, embedding or input column): never projected."""
        conditioning = [m for m in self.modules() if isinstance(m, TaskEmbedding)]
        own = [module.columns for module in self.modules() if isinstance(module, TaskColumns)]
        heads = list(self.head.parameters()) if self.multi_head else []
        return [*(p for module in conditioning for p in module.parameters()), *own, *heads]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that all tasks share: the ones that surgery sees."""
        own = {id(p) for p in self.task_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def _inputs(self, observations: Tensor, *others: Tensor) -> Tensor:
        """What the first layer sees: (rows, columns), or the same with the members before."""
        if self.conditioning == "one-hot":
            parts = [observations, *others]
        else:
            plain, one_hot = observations[:, : -self.num_tasks], observations[:, -self.num_tasks :]
            parts = [plain, *others, self.embedding(one_hot) if self.conditioning == "embedding" else one_hot]
        if self.num_members is None:
            return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        if parts[-1].ndim == 2:  # the members see the same
            return torch.cat(parts, dim=-1).expand(self.num_members, -1, -1)
        return torch.cat([part.expand(self.num_members, -1, -1) for part in parts], dim=-1)

    def _outputs(self, observations: Tensor, *others: Tensor, blocks: bool) -> Tensor:
        """What the head makes of the hidden layers; only these multiply in less precision, and only in training.

        The head is a thousandth of the work, and its outputs (values, log-probabilities) need every digit.
        """
        inputs = self._inputs(observations, *others)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=blocks and self.precision == "bfloat16"):
            hidden = self.torso(inputs)
        hidden = hidden.to(inputs.dtype)
        if not self.multi_head:
            return self.head(hidden)
        return self.head(hidden, None if blocks else observations[:, -self.num_tasks :])


class MultiTaskActor(_MultiTaskNetwork):
    """A tanh-squashed diagonal Gaussian policy; the last T of the D observation columns are a one-hot of the task."""

    def __init__(self, size: NetworkSize, obs_dim: int, action_dim: int):
        super().__init__(size, obs_dim, 0, 2 * action_dim)

    def _distribution(self, observations: Tensor, blocks: bool) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(observations, blocks=blocks)
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def forward(
        self, observations: Float[Tensor, "rows obs"], deterministic: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """Actions (rows, A) in (-1, 1), for rows in any order; `noise` as in `action_log_prob`."""
        mean, log_std = self._distribution(observations, blocks=False)
        if deterministic:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * (torch.randn_like(mean) if noise is None else noise))

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
    """N state-action values side by side: (rows, D) and (rows, A) -> (N, rows). All N form one parameter vector.

    :param values: what the outputs mean.
    """

    def __init__(self, size: NetworkSize, obs_dim: int, action_dim: int, n_critics: int, values: ScalarValue):
        super().__init__(size, obs_dim, action_dim, values.num_outputs, n_critics)
        self.n_critics = n_critics
        self.values = values
        with torch.no_grad():
            self.head.bias.add_(values.initial_outputs())  # type: ignore[operator]

    def outputs(
        self, observations: Tensor, actions: Tensor, blocks: bool = False
    ) -> Float[Tensor, "critics rows outputs"]:
        """What `values` turns into Q values; `blocks` says that the rows lie in T equal task blocks (else the one-hot
        picks the head)."""
        return self._outputs(observations, actions, blocks=blocks)

    def forward(self, observations: Tensor, actions: Tensor, blocks: bool = False) -> Float[Tensor, "critics rows"]:
        """Q values."""
        return self.values.value(self.outputs(observations, actions, blocks))


class MultiTaskPolicy(BasePolicy):
    """Actor, critics and target critics of a multi-task SAC, sized apart.

    A subclass may have networks of its own; see `make_optimizers`.

    :param num_tasks: T; set by MTSAC from its environment.
    :param actor_width: units of each hidden layer of the actor; `actor_depth` layers.
    :param critic_width: units of each hidden layer of each critic; `critic_depth` layers.
    :param actor_layer_norm: LayerNorm before each ReLU of the actor; `critic_layer_norm` of the critics.
    :param actor_torso: "mlp", or "bronet": one layer and `actor_depth` residual blocks of two, with LayerNorm;
        `critic_torso` of the critics.
    :param conditioning: how the task enters: "one-hot", as inputs like the others; "own-columns", the same with the
        one-hot's columns of the first layer left out of surgery; "embedding", a learned vector per task.
    :param embedding_size: numbers in such a vector.
    :param multi_head: one output layer per task instead of one for all.
    :param n_critics: number of critics.
    :param critic_head: what a critic's outputs are: "scalar" a value, "c51" or "hl-gauss" a histogram of returns with
        `bins` bins from -`v_max` to `v_max` (see `agents.networks.values`).
    :param precision: of the products in the hidden layers during training: "float32", or "bfloat16", faster where the
        device has units for it. Weights, optimizer, heads, surgery and acting stay in float32. "tf32" is for CUDA:
        all products of an update but those of surgery, heads included, round their factors to 10 bits.
    :param weight_decay: of AdamW; 0 is Adam.
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
        actor_layer_norm: bool = False,
        critic_layer_norm: bool = False,
        actor_torso: str = "mlp",
        critic_torso: str = "mlp",
        conditioning: str = "one-hot",
        embedding_size: int = 32,
        multi_head: bool = False,
        n_critics: int = 2,
        critic_head: str = "scalar",
        bins: int = 101,
        v_max: float = 10.0,
        precision: str = "float32",
        weight_decay: float = 0.0,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(observation_space, action_space, optimizer_kwargs=optimizer_kwargs or {}, squash_output=True)
        sizes = {"actor_width": actor_width, "actor_depth": actor_depth, "critic_width": critic_width}
        more = {"critic_depth": critic_depth, "n_critics": n_critics, "embedding_size": embedding_size}
        for name, value in {**sizes, **more}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be 0 or more, found {weight_decay}.")
        for name, found, known in (
            ("actor_torso", actor_torso, Torso),
            ("critic_torso", critic_torso, Torso),
            ("conditioning", conditioning, Conditioning),
            ("precision", precision, Precision),
        ):
            if found not in get_args(known):
                raise ValueError(f"{name} is one of {', '.join(get_args(known))}; found {found!r}.")
        self.v_max = v_max
        common = (num_tasks, multi_head, conditioning, embedding_size)
        of_actor = NetworkSize(actor_width, actor_depth, actor_layer_norm, actor_torso, *common)
        of_critic = NetworkSize(critic_width, critic_depth, critic_layer_norm, critic_torso, *common)
        obs_dim, action_dim = observation_space.shape[0], action_space.shape[0]
        self.actor = MultiTaskActor(of_actor, obs_dim, action_dim)
        self.critic, self.critic_target = (
            MultiTaskCritic(of_critic, obs_dim, action_dim, n_critics, make_value(critic_head, bins, v_max))
            for _ in range(2)
        )
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        for network in (self.actor, self.critic, self.critic_target):
            network.precision = precision
        self.weight_decay = weight_decay
        self.make_optimizers(lr_schedule)

    def make_optimizers(self, lr_schedule: Schedule) -> None:
        """New optimizers, of the parameters that actor and critics have now.

        A subclass that replaces a part (`self.actor.torso = ...`, or of `critic` and `critic_target` alike) calls this
        after it: the optimizers of before do not know the new parameters.
        """
        kind = torch.optim.AdamW if self.weight_decay else torch.optim.Adam
        for trained in (self.actor, self.critic):
            # fused: one pass over parameters and moments instead of one per operation
            options = {"fused": True, "weight_decay": self.weight_decay, **self.optimizer_kwargs}
            trained.optimizer = kind(trained.parameters(), lr=lr_schedule(1), **options)

    def check_trained(self) -> None:
        """Refuse parameters that no optimizer moves, and target critics that do not follow the critics.

        :raises ValueError: naming the parameters.
        """
        optimizers = (self.actor.optimizer, self.critic.optimizer)
        moved = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        moved |= {id(p) for p in self.critic_target.parameters()}
        left = [name for name, p in self.named_parameters() if p.requires_grad and id(p) not in moved]
        if left:
            raise ValueError(
                f"Expected an optimizer for every parameter of {type(self).__name__}. Found none, so no training, for "
                f"{', '.join(left)}. Call self.make_optimizers(lr_schedule) after parts are replaced, or freeze them "
                "with requires_grad_(False)."
            )
        critic, target = (
            {name: tuple(p.shape) for name, p in network.named_parameters()}
            for network in (self.critic, self.critic_target)
        )
        if critic != target:
            differing = sorted(name for name, _ in critic.items() ^ target.items())
            raise ValueError(
                f"Expected the same parameters in critic and critic_target of {type(self).__name__}; found others in "
                f"{', '.join(dict.fromkeys(differing))}. Replace a part in both."
            )

    def save(self, path: str) -> None:
        """Refuse: Stable-Baselines3's way is a pickle.

        :raises ValueError: saying how to save instead.
        """
        raise ValueError(
            "A policy is saved with its agent: agent.save(path), and MTSAC.load(path).policy is the policy again. "
            "agent.export_onnx(path) writes the policy alone, for acting."
        )

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> MultiTaskPolicy:
        """Refuse, as `save` does.

        :raises ValueError: saying how to load instead.
        """
        raise ValueError("A policy is loaded with its agent: MTSAC.load(path).policy, from a file of agent.save(path).")

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        return self.actor(observation.to(next(self.actor.parameters()).dtype), deterministic)

    forward = _predict
