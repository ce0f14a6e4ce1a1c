"""One update of multi-task SAC as a function of tensors on the device, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from agents.learning.explosions import kept, set_back
from agents.learning.update import Batch, Given, Networks, Report, Turn, Update
from agents.networks.actor_critic import MultiTaskActor


@runtime_checkable
class SACNetworks(Networks, Protocol):
    """What learns: `agents.MultiTaskPolicy`, or anything else that holds these three."""

    actor: MultiTaskActor


@dataclass(eq=False)
class SACUpdate(Update):
    """Multi-task SAC's update: a loss per task for critics and actor, surgery on the tasks' gradients, one step each.

    With one task and the mean it is that of Stable-Baselines3's SAC.

    :param loss_weighting: "temperature" weights task i's losses with T softmax(-log alpha)_i, "none" equally.
    """

    networks: SACNetworks
    loss_weighting: str = field(default="none", kw_only=True)

    @property
    def actor(self) -> MultiTaskActor:
        """That of the networks."""
        return self.networks.actor

    def update(self, batch: Batch, turn: Turn, measure: bool = False) -> Report:
        """Move the critics, and on its turn the actor with the temperatures, and the target critics.

        :param measure: measure how the tasks' gradients conflict, too, which costs several backward passes.
        """
        report, batch = Report(), self.deal(batch)
        alpha = self.temperatures.values(batch.observations)
        noise = None
        if turn.actor:
            # a_pi ~ pi(. | s): one draw serves temperatures and actor, and comes before the critics' step
            noise = torch.randn_like(batch.actions)
            with self._record("actor") as actor_tape:
                actions_pi, log_prob = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
            # log alpha_i descends -log alpha_i (mean_B log pi(a_pi | s) + target entropy)
            self.temperatures.step(self.by_task(log_prob), batch.observations)
        # w_i = T softmax(-log alpha)_i, or 1
        weights = self.loss_weights(alpha)

        # y = r + gamma (1 - terminated) (min_n Q_target_n(s', a') - alpha_i log pi(a' | s')), a' ~ pi(. | s')
        target = self.target(batch, alpha)
        # PopArt: the statistics of y move, and the critics' heads with them, so that no value changes
        target = self.rescale(target)

        # critics: L_i = w_i mean_B sum_n loss(Q_n(s, a), y)
        with self._record("critic") as critic_tape:
            outputs = self.q_outputs(self.critic, batch.observations, batch.actions)
        critic_losses = self.critic_losses(outputs, target)
        # 0 instead for tasks whose loss explodes
        given = Given(batch, alpha, weights * kept(self.of_tasks(critic_losses), self.loss_limit), target, noise)
        self._step("critic", critic_losses, critic_tape, given, measure, report)

        actor_losses = None
        if turn.actor:
            # actor: L_i = w_i mean_B (alpha_i log pi(a_pi | s) - min_n Q_n(s, a_pi)), the critics of now are constants
            actor_losses = self.actor_losses(batch.observations, actions_pi, log_prob, alpha)
            self._step("actor", actor_losses, actor_tape, given, measure, report)
            actor_losses = self.of_tasks(actor_losses)
            report.numbers |= {"actor_loss": actor_losses, "entropy": -self.by_task(log_prob).mean(-1)}
            self._trusted = True

        if turn.target:
            # Q_target_n <- Q_target_n + tau (Q_n - Q_target_n)
            self.follow(self.critic_target, self.critic)
        set_back((self.critic, self.critic_target, self.actor), self.of_tasks(critic_losses), self.loss_limit)
        report.numbers["ent_coef"] = alpha
        self._conclude(report, critic_losses, actor_losses, alpha, outputs)
        return report

    def actor_losses(
        self, observations: Tensor, actions: Tensor, log_prob: Tensor, alpha: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " losses"]:
        """Mean of alpha log pi(a | s) - Q(s, a) over the task's rows, or over those of each of its batches."""
        outputs = self.q_outputs(self.critic, observations, actions)
        return self.mean("actor", alpha.unsqueeze(1) * self.by_task(log_prob) - self.q_values(outputs))

    def loss_weights(self, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"] | float:
        """Weight of each task's losses; they sum to T."""
        return self.num_tasks * torch.softmax(-alpha.log(), 0) if self.loss_weighting == "temperature" else 1.0

    @torch.no_grad()
    def target(self, batch: Batch, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, "tasks rows targets"]:
        """Return what the critics learn, in the units of the return scale; a scalar critic has one target.

        With n steps the reward is their discounted sum, without the entropies of the states between, and gamma is
        gamma^n.
        """
        by_task = (self.num_tasks, -1, 1)
        next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations, blocks=True)
        outputs = self.q_outputs(self.critic_target, batch.next_observations, next_actions)
        return self.backed_up(batch, outputs, alpha, alpha.view(by_task) * next_log_prob.view(by_task))

    def actor_losses_again(self, given: Given) -> Float[Tensor, " losses"]:
        """Return the actor's losses of the same batch and noise, with the parameters of now."""
        drawn = self.actor.action_log_prob(given.batch.observations, blocks=True, noise=given.noise)
        return self.actor_losses(given.batch.observations, *drawn, given.alpha)
