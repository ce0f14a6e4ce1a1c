"""One update of multi-task SAC as a function of tensors on the device, and of nothing else.

What the host decides (which networks move, measure or not) comes as arguments; whatever an update changes is a tensor
that stays where it is and is changed in place. So the same code runs eagerly and inside the capture of a CUDA graph
(`agents.device.captured`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

import mtrl
from agents.learning import batches
from agents.learning.metrics import StepPath
from agents.learning.returns import ReturnScale
from agents.learning.temperatures import FixedTemperatures
from agents.networks.actor_critic import MultiTaskActor, MultiTaskCritic

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

    actor: bool  # and the temperatures with it
    target: bool


@runtime_checkable
class Networks(Protocol):
    """What learns: `agents.MultiTaskPolicy`, or anything else that holds these three."""

    actor: MultiTaskActor
    critic: MultiTaskCritic
    critic_target: MultiTaskCritic


@dataclass(frozen=True)
class SoftBackup:
    """The soft Bellman backup of values at the next states, y = r + gamma (1 - terminated) (V(s') - alpha log pi).

    Everything is (T, B, 1) and in the units of the return scale; values in them are lower by `shift`.
    """

    rewards: Tensor
    discounts: Tensor
    entropy_cost: Tensor  # alpha log pi
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


class SACUpdate:
    """Multi-task SAC's update: a loss per task for critics and actor, surgery on the tasks' gradients, one step each.

    With one task and the mean it is that of Stable-Baselines3's SAC. Build it once, with what lives on: it changes
    networks, optimizers, temperatures and aggregators in place, and keeps no tensor of its own.

    :param optimizers: of "actor" and "critic".
    :param aggregators: of "actor" and "critic": two instances, as each has a state of its own.
    :param scale: what brings the tasks' returns to one size.
    :param gamma: discount of a step.
    :param tau: share by which the target critics move towards the critics.
    :param reward_scale: (T,), what rewards are multiplied by; None: by one.
    :param critic_reduction: "min" or "mean" over the critics, in the target and for the actor.
    :param loss_weighting: "temperature" weights task i's losses with T softmax(-log alpha)_i, "none" equally.
    :param max_grad_norm: largest global norm of an update after surgery; 0: no clipping.
    """

    def __init__(
        self,
        networks: Networks,
        optimizers: Mapping[Network, torch.optim.Optimizer],
        aggregators: Mapping[Network, mtrl.Aggregator],
        scale: ReturnScale,
        temperatures: FixedTemperatures,
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        reward_scale: Float[Tensor, " tasks"] | None = None,
        critic_reduction: str = "min",
        loss_weighting: str = "none",
        max_grad_norm: float = 0.0,
    ):
        self.actor, self.critic, self.critic_target = networks.actor, networks.critic, networks.critic_target
        self.optimizers, self.aggregators = dict(optimizers), dict(aggregators)
        self.scale, self.temperatures = scale, temperatures
        self.num_tasks = scale.num_tasks
        self.gamma, self.tau = gamma, tau
        self.reward_scale = torch.ones_like(scale.scale) if reward_scale is None else reward_scale
        self.critic_reduction, self.loss_weighting = critic_reduction, loss_weighting
        self.max_grad_norm = max_grad_norm
        self._batches = batches.agreed(self.aggregators.values())
        self._trusted = False  # an update of all networks was made, under the eyes of `mtrl.record`

    def update(self, batch: Batch, turn: Turn, measure: bool = False) -> Report:
        """Move the critics, and on its turn the actor with the temperatures, and the target critics.

        :param measure: measure how the tasks' gradients conflict, too, which costs several backward passes.
        """
        report = Report()
        batch = batches.deal(batch, self.num_tasks, self._batches)
        alpha = self.temperatures.values()
        noise = None
        if turn.actor:
            # a_pi ~ pi(. | s): one draw serves temperatures and actor, and comes before the critics' step
            noise = torch.randn_like(batch.actions)
            with self._record("actor") as actor_tape:
                actions_pi, log_prob = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
            # log alpha_i descends -log alpha_i (mean_B log pi(a_pi | s) + target entropy)
            self.temperatures.step(self.by_task(log_prob))
        # w_i = T softmax(-log alpha)_i, or 1
        weights = self.loss_weights(alpha)

        # y = r + gamma (1 - terminated) (min_n Q_target_n(s', a') - alpha_i log pi(a' | s')), a' ~ pi(. | s')
        target = self.target(batch, alpha)
        # PopArt: the statistics of y move, and the critics' heads with them, so that no value changes
        returns = self.scale.denormalise(target)
        self.scale.observe_targets(returns, self.critic, self.critic_target)
        target = self.scale.normalise(returns).to(target.dtype)

        # critics: L_i = w_i mean_B sum_n loss(Q_n(s, a), y)
        with self._record("critic") as critic_tape:
            outputs = self.q_outputs(self.critic, batch.observations, batch.actions)
        critic_losses = self.critic_losses(outputs, target)
        given = Given(batch, alpha, weights, target, noise)
        self._step("critic", critic_losses, critic_tape, given, measure, report)

        actor_losses = None
        if turn.actor:
            # actor: L_i = w_i mean_B (alpha_i log pi(a_pi | s) - min_n Q_n(s, a_pi)), the critics of now are constants
            actor_losses = self.actor_losses(batch.observations, actions_pi, log_prob, alpha)
            self._step("actor", actor_losses, actor_tape, given, measure, report)
            actor_losses = batches.of_tasks(actor_losses, self.num_tasks)
            report.numbers |= {"actor_loss": actor_losses, "entropy": -self.by_task(log_prob).mean(-1)}
            self._trusted = True

        if turn.target:
            # Q_target_n <- Q_target_n + tau (Q_n - Q_target_n)
            with torch.no_grad():
                torch._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), self.tau)
        self._conclude(report, batches.of_tasks(critic_losses, self.num_tasks), actor_losses, alpha, outputs)
        return report

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
        networks: dict[Network, MultiTaskActor | MultiTaskCritic] = {"actor": self.actor, "critic": self.critic}
        for name, network in networks.items():
            self.aggregators[name].reset(self.num_tasks, sum(p.numel() for p in network.shared_parameters()))

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
        return batches.mean(self.critic.values.loss(outputs, target), self.aggregators["critic"].batches).sum(0)

    def actor_losses(
        self, observations: Tensor, actions: Tensor, log_prob: Tensor, alpha: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " losses"]:
        """Mean of alpha log pi(a | s) - Q(s, a), likewise."""
        outputs = self.q_outputs(self.critic, observations, actions)
        q_pi = self.critic.values.reduce(outputs, self.critic_reduction)
        return batches.mean(alpha.unsqueeze(1) * self.by_task(log_prob) - q_pi, self.aggregators["actor"].batches)

    def loss_weights(self, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"] | float:
        """Weight of each task's losses; they sum to T."""
        return self.num_tasks * torch.softmax(-alpha.log(), 0) if self.loss_weighting == "temperature" else 1.0

    @torch.no_grad()
    def target(self, batch: Batch, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, "tasks rows targets"]:
        """Return what the critics learn, in the units of the return scale; a scalar critic has one target.

        With n steps the reward is their discounted sum, without the entropies of the states between, and gamma is
        gamma^n.
        """
        next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations, blocks=True)
        outputs = self.q_outputs(self.critic_target, batch.next_observations, next_actions)
        by_task = (self.num_tasks, -1, 1)
        reward_scale = self.reward_scale / self.scale.divisor(alpha)
        gamma = self.gamma if batch.discounts is None else batch.discounts.view(by_task)
        backup = SoftBackup(
            rewards=batch.rewards.view(by_task) * reward_scale.view(by_task),
            discounts=gamma * (1 - batch.dones.view(by_task)),
            entropy_cost=alpha.view(by_task) * next_log_prob.view(by_task),
            shift=None if self.scale.shift is None else self.scale.shift.view(by_task),
        )
        return self.critic_target.values.target(outputs, backup, self.critic_reduction)

    @torch.no_grad()
    def recompute_losses(self, name: Network, given: Given) -> Float[Tensor, " losses"]:
        """Return the losses of the same batch, target and noise, with the parameters of now."""
        batch = given.batch
        if name == "critic":
            losses = self.critic_losses(self.q_outputs(self.critic, batch.observations, batch.actions), given.target)
        else:
            drawn = self.actor.action_log_prob(batch.observations, blocks=True, noise=given.noise)
            losses = self.actor_losses(batch.observations, *drawn, given.alpha)
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
        path = StepPath(batches.of_tasks(losses, self.num_tasks), network) if measure else None
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
                found["curvature"] = path.curvature(batches.of_tasks(after, self.num_tasks))
                report.measured |= {f"{name}_{key}": value for key, value in found.items()}

    @torch.no_grad()
    def _conclude(
        self, report: Report, critic_losses: Tensor, actor_losses: Tensor | None, alpha: Tensor, outputs: Tensor
    ) -> None:
        """Add what the logs show, and what is watched."""
        no_loss = torch.zeros_like(critic_losses)
        report.watched = torch.stack([critic_losses, no_loss if actor_losses is None else actor_losses, alpha])
        q_values = self.critic.values.value(outputs).mean((0, 2))
        report.numbers |= {"critic_loss": critic_losses, "ent_coef": alpha, "q_value": q_values}
        if self.scale.measured:
            report.numbers["return_scale"] = self.scale.divisor(alpha)
