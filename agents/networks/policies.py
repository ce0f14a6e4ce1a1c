"""Actor, critics and target critics as a policy of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.fields import SettingError, build, check_fields, taken_by
from agents.networks.actor_critic import Actor, MultiTaskActor, MultiTaskCritic, MultiTaskNetwork
from agents.networks.asked import actions_of
from agents.networks.conditionings import CONDITIONINGS
from agents.networks.deterministic import DeterministicActor
from agents.networks.form import Form, by_name, takes_task
from agents.networks.task_vectors import as_task_vectors
from agents.networks.values import make_value
from agents.settings import NetworkSettings


class MultiTaskPolicy(BasePolicy):
    """Actor, critics and target critics of a multi-task SAC, sized apart.

    A subclass may have networks of its own; see `make_optimizers`, and `actor_class` for another kind of actor.

    :param num_tasks: T; set by MTSAC from its environment.
    :param optimizer_kwargs: further options of Adam, such as `eps`.
    :param task_vectors: fixed vectors of the tasks, an array, tensor or lists (T, numbers), for a conditioning that
        takes them; MTSAC reads them from the file `task_embeddings`.
    :param settings: those of `agents.settings.NetworkSettings`. `actor_torso`, `critic_torso` and `conditioning` may be
        classes, too (see docs/architectures.md).
    :raises ValueError: for a setting that does not fit, and for networks that the settings do not describe.
    """

    actor_class: ClassVar[type[Actor]] = MultiTaskActor
    followed: ClassVar[tuple[str, ...]] = ("critic",)  # networks that have a slow copy, "critic_target"
    actor: Actor
    critic: MultiTaskCritic
    critic_target: MultiTaskCritic

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        num_tasks: int,
        optimizer_kwargs: dict[str, Any] | None = None,
        task_vectors: Any = None,
        **settings: Any,
    ):
        super().__init__(observation_space, action_space, optimizer_kwargs=optimizer_kwargs or {}, squash_output=True)
        settings = by_name(settings)
        check_fields(NetworkSettings, settings)
        self.settings: NetworkSettings = build(NetworkSettings, settings)
        self.task_vectors = None if task_vectors is None else as_task_vectors(task_vectors, num_tasks)
        named = {**vars(self.settings), "task_vectors": self.task_vectors}
        actor, critic = (Form.of(network, num_tasks, named) for network in ("actor", "critic"))
        check_forms(named, actor, critic)
        self.v_max = self.settings.v_max
        obs_dim, action_dim = observation_space.shape[0], action_space.shape[0]
        self.actor = self.make_actor(actor)
        self.critic, self.critic_target = (
            MultiTaskCritic(
                critic, obs_dim, action_dim, values=make_value(**taken_by(make_value, named)),
                **taken_by(MultiTaskCritic, named),
            )
            for _ in range(2)
        )  # fmt: skip
        if "actor" in self.followed:
            self.actor_target = self.make_actor(actor)
        for network in (self.actor, self.critic, *(target for target, _ in self._targets())):
            network.precision = self.settings.precision
        self.start_targets()
        self.make_optimizers(lr_schedule)

    def make_actor(self, form: Form) -> Actor:
        """Make a new actor of that form."""
        sizes = self.observation_space.shape[0], self.action_space.shape[0]  # type: ignore[index]
        return self.actor_class(form, *sizes, **taken_by(self.actor_class, vars(self.settings)))

    def make_optimizers(self, lr_schedule: Schedule) -> None:
        """Make new optimizers, of the parameters that actor and critics have now.

        A subclass that replaces a part (`self.actor.torso = ...`, or of `critic` and `critic_target` alike) calls this
        after it: the optimizers of before do not know the new parameters.
        """
        decay = self.settings.weight_decay
        kind = torch.optim.AdamW if decay else torch.optim.Adam
        for trained, penalty in ((self.actor, self.settings.actor_l2), (self.critic, 0.0)):
            # fused: one pass over parameters and moments instead of one per operation
            options = {"fused": True, "weight_decay": decay or penalty, **self.optimizer_kwargs}
            trained.optimizer = kind(trained.parameters(), lr=lr_schedule(1), **options)

    def start_targets(self) -> None:
        """Let each target network be what its own is now; it is never trained, and stays in evaluation mode."""
        for target, network in self._targets():
            target.load_state_dict(network.state_dict())
            target.requires_grad_(False).eval()

    def begin_anew(self, fresh: nn.Module) -> None:
        """Take the parameters of a new policy into the tensors that are there; those that are frozen stay."""
        frozen = {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}
        self.load_state_dict({**fresh.state_dict(), **frozen})
        self.start_targets()

    def set_training_mode(self, mode: bool) -> None:
        """Of all but target networks, which stay in evaluation mode as Stable-Baselines3's do."""
        super().set_training_mode(mode)
        for target, _ in self._targets():
            target.eval()

    def _targets(self) -> list[tuple[MultiTaskNetwork, MultiTaskNetwork]]:
        """Each target network, and the one that it follows."""
        return [(getattr(self, f"{name}_target"), getattr(self, name)) for name in self.followed]

    def check_trained(self) -> None:
        """Refuse parts that would not be trained.

        Those are parameters that no optimizer moves, target networks that do not follow their own, and layers without a
        rule for per-task gradients.

        :raises ValueError: naming the parameters or the layer.
        """
        optimizers = (self.actor.optimizer, self.critic.optimizer)
        moved = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        moved |= {id(p) for target, _ in self._targets() for p in target.parameters()}
        left = [name for name, p in self.named_parameters() if p.requires_grad and id(p) not in moved]
        if left:
            raise ValueError(
                f"Expected an optimizer for every parameter of {type(self).__name__}. Found none, so no training, for "
                f"{', '.join(left)}. Call self.make_optimizers(lr_schedule) after parts are replaced, or freeze them "
                "with requires_grad_(False)."
            )
        for name, pair in zip(self.followed, self._targets(), strict=True):
            target, own = (
                {key: tuple(tensor.shape) for key, tensor in (*network.named_parameters(), *network.named_buffers())}
                for network in pair
            )
            if own != target:
                differing = sorted(key for key, _ in own.items() ^ target.items())
                raise ValueError(
                    f"Expected the same parameters in {name} and {name}_target of {type(self).__name__}; found others "
                    f"in {', '.join(dict.fromkeys(differing))}. Replace a part in both."
                )
        self.actor.check_block_gradients("actor")
        self.critic.check_block_gradients("critic")

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

    _predict = forward = actions_of


class DeterministicPolicy(MultiTaskPolicy):
    """Actor, critics, and a slow copy of each: the targets. Its arguments are those of `MultiTaskPolicy`."""

    actor_class: ClassVar[type[Actor]] = DeterministicActor
    followed: ClassVar[tuple[str, ...]] = ("critic", "actor")
    actor: DeterministicActor
    actor_target: DeterministicActor


def check_forms(settings: Mapping[str, Any], actor: Form, critic: Form) -> None:
    """Refuse a conditioning beside torsos that leave it aside, and vectors of the tasks that nothing looks at.

    :param settings: that both were made of.
    :raises ValueError: saying what was expected, and why.
    """
    name, vectors = settings["conditioning"], settings["task_vectors"]
    torsos = {settings["actor_torso"]: actor.torso, settings["critic_torso"]: critic.torso}
    taking = [torso for torso, kind in torsos.items() if takes_task(kind)]
    if name != "one-hot" and len(taking) == len(torsos):
        raise ValueError(
            f"conditioning={name!r} has no effect on {' and '.join(taking)}: the task enters there in a way of its "
            "own; leave it at one-hot."
        )
    if taking and getattr(CONDITIONINGS[name], "of_both", False):
        raise ValueError(
            f"conditioning={name!r} is an architecture of actor and critics alike, whose encoders stand in the place "
            f"of the way that the task enters {taking[0]}: take one of the two for both networks."
        )
    if settings["task_embeddings"]:
        raise ValueError("task_embeddings is a file that an agent reads: give a policy by itself task_vectors.")
    if vectors is not None and not any("task_vectors" in form.conditioning_options for form in (actor, critic)):
        takers = [
            other for other, kind in CONDITIONINGS.items() if "task_vectors" in inspect.signature(kind).parameters
        ]
        raise SettingError(
            "task_embeddings", f"none beside conditioning={name!r}, as {', '.join(takers)} alone looks at them", "some"
        )
