"""What the updates of all algorithms share: tensors on the device in, losses per task, surgery, one step each.

What the host decides (which networks move, measure or not) comes as arguments; whatever an update changes is a tensor
that stays where it is and is changed in place. So the same code runs eagerly and inside the capture of a CUDA graph
(`agents.device.captured`). `agents.learning.sac` and `agents.learning.td3` say what an update computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

import mtrl
from agents.learning import batches
from agents.learning.metrics import StepPath
from agents.learning.returns import ReturnScale
from agents.learning.temperatures import FixedTemperatures
from agents.networks.actor_critic import Actor, MultiTaskCritic

Network = Literal["actor", "critic"]


class Batch(NamedTuple):
    """T blocks of B rows, block t from task t: what `agents.TaskReplayBuffer.sample` draws, in its order."""

    observations: Float[Tensor, "all obs"]  # (T B, D), the task's one-hot in the last T columns
    actions: Float[Tensor, "all actions"]
    next_observations: Float[Tensor, "all obs"]  # after the last reward of an n-step sum
    dones: Float[Tensor, "all 1"]  # 1 where the episode terminated; a time limit is no end
    rewards: Float[Tensor, "all 1"]  # raw; with n steps their discounted sum
    discounts: Float[Tensor, "all 1"] | None = None  # of the value at the next observations: gamma^n; None: gamma


class Turn(NamedTuple):
    """What an update moves besides the critics."""

    actor: bool  # and SAC's temperatures with it
    target: bool


@runtime_checkable
class Networks(Protocol):
    """What learns: `agents.MultiTaskPolicy`, or anything else that holds these three."""

    actor: Actor
    critic: MultiTaskCritic
    critic_target: MultiTaskCritic


@dataclass(frozen=True)
class SoftBackup:
    """The soft Bellman backup of values at the next states, y = r + gamma (1 - terminated) (V(s') - alpha log pi).

    Everything is (T, B, 1) and in the units of the return scale; values in them are lower by `shift`.
    """

    rewards: Tensor
    discounts: Tensor
    entropy_cost: Tensor | float  # alpha log pi; 0: no bonus for entropy
    shift: Tensor | None  # (T, 1, 1)

    def __call__(self, value: Tensor) -> Tensor:
        """Return the target for a value at the next state."""
        if self.shift is None:
            return self.rewards + self.discounts * (value - self.entropy_cost)
        return self.rewards + self.discounts * (value + self.shift - self.entropy_cost) - self.shift


class Given(NamedTuple):
    """What the losses of one update are made of, beside the parameters."""

    batch: Batch
    alpha: Float[Tensor, " tasks"]
    weights: Float[Tensor, " tasks"] | float  # of the tasks' losses
    target: Float[Tensor, "tasks rows targets"]
    noise: Float[Tensor, "all actions"] | None  # of the actor's actions; None: it does not move


@dataclass
class Report:
    """What happened in an update: tensors on its device."""

    numbers: dict[str, Tensor] = field(default_factory=dict)  # for the logs: (T,) or a scalar each
    measured: dict[str, Tensor] = field(default_factory=dict)  # how the tasks' gradients conflict, if it was measured
    watched: Float[Tensor, "quantities tasks"] = field(init=False)  # losses of critic and actor, and temperatures


@dataclass(eq=False)
class Update:
    """What an update of actor and critics holds, and the steps that it is made of; each algorithm inherits from it.

    Build it once, with what lives on: it changes networks, optimizers, temperatures and aggregators in place, and keeps
    no tensor of its own.

    :param optimizers: of "actor" and "critic".
    :param aggregators: of "actor" and "critic": two instances, as each has a state of its own.
    :param scale: what brings the tasks' returns to one size.
    :param temperatures: of the entropy bonus, fixed at 0 where there is none.
    :param gamma: discount of a step.
    :param tau: share by which a target network moves towards its own.
    :param reward_scale: (T,), what rewards are multiplied by; None: by one.
    :param critic_reduction: "min" or "mean" over the critics, in the target and for the actor.
    :param max_grad_norm: largest global norm of an update after surgery; 0: no clipping.
    :param loss_limit: largest critic loss of a task; see `agents.learning.explosions`.
    """

    delayed: ClassVar[bool] = False  # the actor moves in the last of `policy_delay` updates, and the targets with it

    networks: Networks
    optimizers: Mapping[Network, torch.optim.Optimizer]
    aggregators: Mapping[Network, mtrl.Aggregator]
    scale: ReturnScale
    temperatures: FixedTemperatures
    _: KW_ONLY
    gamma: float = 0.99
    tau: float = 0.005
    reward_scale: Float[Tensor, " tasks"] | None = None
    critic_reduction: str = "min"
    max_grad_norm: float = 0.0
    loss_limit: float = 0.0

    def __post_init__(self) -> None:
        self.critic, self.critic_target = self.networks.critic, self.networks.critic_target
        self.optimizers, self.aggregators = dict(self.optimizers), dict(self.aggregators)
        self.num_tasks = self.scale.num_tasks
        self._batches = batches.agreed(self.aggregators.values())
        self._trusted = False  # an update of all networks was made, under the eyes of `mtrl.record`

    @property
    def actor(self) -> Actor:
        """That of the networks."""
        return self.networks.actor

    def update(self, batch: Batch, turn: Turn, measure: bool = False) -> Report:
        """Move the critics, and on their turn the actor and the target networks.

        :param measure: measure how the tasks' gradients conflict, too, which costs several backward passes.
        """
        raise NotImplementedError

    def actor_losses_again(self, given: Given) -> Float[Tensor, " losses"]:
        """Return the actor's losses of the same batch and noise, with the parameters of now."""
        raise NotImplementedError

    def restart(self) -> None:
        """Forget moments, temperatures and the aggregators' state, for networks that begin anew; all tensors stay."""
        with torch.no_grad():
            for optimizer in self.all_optimizers():
                for moments in optimizer.state.values():
                    torch._foreach_zero_(list(moments.values()))
        self.temperatures.restart()
        self.reset_aggregators()

    def reset_aggregators(self) -> None:
        """Let the aggregators begin anew, for as many tasks and shared parameters as there are."""
        networks: dict[Network, Actor | MultiTaskCritic] = {"actor": self.actor, "critic": self.critic}
        for name, network in networks.items():
            seen = [p for p in network.shared_parameters() if p.requires_grad]
            self.aggregators[name].reset(self.num_tasks, sum(p.numel() for p in seen))

    def all_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of actor and critics, and of the temperatures if they are learned."""
        return [self.optimizers["actor"], self.optimizers["critic"], *self.temperatures.optimizers]

    def by_task(self, rows: Float[Tensor, "*rest all"]) -> Float[Tensor, "*rest tasks rows"]:
        """(..., T B) -> (..., T, B)."""
        return rows.unflatten(-1, (self.num_tasks, -1))

    def q_outputs(
        self, critic: MultiTaskCritic, observations: Tensor, actions: Tensor
    ) -> Float[Tensor, "critics tasks rows outputs"]:
        """Return what `critic.values` turns into Q values."""
        return critic.outputs(observations, actions, blocks=True).unflatten(1, (self.num_tasks, -1))

    def critic_losses(
        self, outputs: Float[Tensor, "critics tasks rows outputs"], target: Float[Tensor, "tasks rows targets"]
    ) -> Float[Tensor, " losses"]:
        """Mean over the task's rows, or over those of each of its batches; sum over the critics."""
        return self.mean("critic", self.critic.values.loss(outputs, target)).sum(0)

    def deal(self, batch: Batch) -> Batch:
        """Return the batch with each task's rows dealt out to as many batches as the aggregators want."""
        return batches.deal(batch, self.num_tasks, self._batches)

    def mean(self, name: Network, rows: Float[Tensor, "*rest tasks rows"]) -> Float[Tensor, "*rest losses"]:
        """Mean over the task's rows, or over those of each of the batches that the network's aggregator wants."""
        return batches.mean(rows, self.aggregators[name].batches)

    def of_tasks(self, losses: Float[Tensor, " losses"]) -> Float[Tensor, " tasks"]:
        """Mean over the batches of each task."""
        return batches.of_tasks(losses, self.num_tasks)

    def q_values(
        self, outputs: Float[Tensor, "critics tasks rows outputs"], first: bool = False
    ) -> Float[Tensor, "tasks rows"]:
        """Return the mean of the critics' values, or the least, as `critic_reduction` says.

        :param first: in place of the least, the first critic's.
        """
        chosen = outputs[:1] if first and self.critic_reduction == "min" else outputs
        return self.critic.values.reduce(chosen, self.critic_reduction)

    def backed_up(
        self,
        batch: Batch,
        outputs: Float[Tensor, "critics tasks rows outputs"],
        alpha: Float[Tensor, " tasks"],
        entropy_cost: Tensor | float = 0.0,
    ) -> Float[Tensor, "tasks rows targets"]:
        """Return the target that the target critics' outputs at the batch's next states lead to.

        :param entropy_cost: alpha log pi (T, B, 1) at the next states.
        """
        by_task = (self.num_tasks, -1, 1)
        factor = 1.0 if self.reward_scale is None else self.reward_scale
        reward_scale = factor / self.scale.divisor(alpha)
        gamma = self.gamma if batch.discounts is None else batch.discounts.view(by_task)
        backup = SoftBackup(
            rewards=batch.rewards.view(by_task) * reward_scale.view(by_task),
            discounts=gamma * (1 - batch.dones.view(by_task)),
            entropy_cost=entropy_cost,
            shift=None if self.scale.shift is None else self.scale.shift.view(by_task),
        )
        return self.critic_target.values.target(outputs, backup, self.critic_reduction)

    def rescale(self, target: Float[Tensor, "tasks rows targets"]) -> Float[Tensor, "tasks rows targets"]:
        """Return the target in the units of the return scale, which move with it (PopArt).

        The critics' heads move with the units, so that no value changes.
        """
        returns = self.scale.denormalise(target)
        self.scale.observe_targets(returns, self.critic, self.critic_target)
        return self.scale.normalise(returns).to(target.dtype)

    @torch.no_grad()
    def follow(self, target: nn.Module, network: nn.Module) -> None:
        """Move a target network towards its own, by the share tau; buffers, such as running means, are copied."""
        torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), self.tau)
        for buffer, own in zip(target.buffers(), network.buffers(), strict=True):
            buffer.copy_(own)

    @torch.no_grad()
    def recompute_losses(self, name: Network, given: Given) -> Float[Tensor, " losses"]:
        """Return the losses of the same batch, target and noise, with the parameters of now."""
        batch = given.batch
        if name == "critic":
            losses = self.critic_losses(self.q_outputs(self.critic, batch.observations, batch.actions), given.target)
        else:
            losses = self.actor_losses_again(given)
        return batches.weighted(losses, given.weights)

    def _record(self, name: Network) -> AbstractContextManager[mtrl.Tape]:
        # every update computes the same: whether the tape sees all of it is looked at once
        network, blocks = getattr(self, name), self.num_tasks * self.aggregators[name].batches
        return mtrl.record(network, blocks, network.task_parameters(), trusted=self._trusted)

    def _step(
        self,
        name: Network,
        losses: Float[Tensor, " losses"],
        tape: mtrl.Tape,
        given: Given,
        measure: bool,
        report: Report,
    ) -> None:
        """Reconcile the tasks' gradients of the actor or the critics, clip, and take the optimizer's step."""
        network, aggregator = getattr(self, name), self.aggregators[name]
        losses = batches.weighted(losses, given.weights)
        path = StepPath(self.of_tasks(losses), network) if measure else None
        found = mtrl.backward(losses, aggregator, tape=tape, diagnostics=measure)
        if self.max_grad_norm:
            norm = nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
            report.numbers[f"{name}_update_norm"] = norm
        self.optimizers[name].step()
        network.after_step()
        if path or aggregator.looks_back:
            after = self.recompute_losses(name, given)
            aggregator.after_step(after)
            if path and found:
                found["curvature"] = path.curvature(self.of_tasks(after))
                report.measured |= {f"{name}_{key}": value for key, value in found.items()}

    @torch.no_grad()
    def _conclude(
        self, report: Report, critic_losses: Tensor, actor_losses: Tensor | None, alpha: Tensor, outputs: Tensor
    ) -> None:
        """Add what the logs show, and what is watched."""
        critic_losses = self.of_tasks(critic_losses)
        no_loss = torch.zeros_like(critic_losses)
        report.watched = torch.stack([critic_losses, no_loss if actor_losses is None else actor_losses, alpha])
        q_values = self.critic.values.value(outputs).mean((0, 2))
        report.numbers |= {"critic_loss": critic_losses, "q_value": q_values}
        if self.scale.measured:
            report.numbers["return_scale"] = self.scale.divisor(alpha)
