"""Actor, critics and target critics as a policy of Stable-Baselines3."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from agents.networks.actor_critic import MultiTaskActor, MultiTaskCritic
from agents.networks.form import Form
from agents.networks.values import make_value
from agents.settings import Precision


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
        actor_modules: int = 2,
        critic_modules: int = 2,
        actor_module_width: int = 256,
        critic_module_width: int = 256,
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
        settings = {name: value for name, value in locals().items() if name not in ("self", "num_tasks")}
        super().__init__(observation_space, action_space, optimizer_kwargs=optimizer_kwargs or {}, squash_output=True)
        sizes = {"actor_width": actor_width, "actor_depth": actor_depth, "critic_width": critic_width}
        more = {"critic_depth": critic_depth, "n_critics": n_critics, "embedding_size": embedding_size}
        for name, value in {**sizes, **more}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be 0 or more, found {weight_decay}.")
        if precision not in get_args(Precision):
            raise ValueError(f"precision is one of {', '.join(get_args(Precision))}; found {precision!r}.")
        self.v_max = v_max
        of_actor, of_critic = (Form.of(network, num_tasks, settings) for network in ("actor", "critic"))
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
