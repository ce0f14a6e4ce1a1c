"""One update of multi-task TD3 as a function of tensors on the device, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from agents.learning.explosions import kept, set_back
from agents.learning.update import Batch, Given, Networks, Report, Turn, Update
from agents.networks.deterministic import DeterministicActor


@runtime_checkable
class TD3Networks(Networks, Protocol):
    """What learns: `agents.networks.policies.DeterministicPolicy`, or anything else that holds these four."""

    actor: DeterministicActor
    actor_target: DeterministicActor


@dataclass(eq=False)
class TD3Update(Update):
    """Multi-task TD3's update: a loss per task for critics and actor, surgery on the tasks' gradients, one step each.

    With one task, the mean and scalar critics it is that of Stable-Baselines3's TD3. (Fujimoto et al. 2018, arXiv
    1802.09477, Algorithm 1.) Histogram critics and a return scale per task are FastTD3's (Seo et al. 2025, arXiv
    2505.22642). The other parameters are those of `Update`; the temperatures are fixed at 0.

    :param target_noise: standard deviation of the noise on the target actor's actions.
    :param target_noise_clip: its limit.
    """

    delayed: ClassVar[bool] = True

    networks: TD3Networks
    target_noise: float = field(default=0.2, kw_only=True)
    target_noise_clip: float = field(default=0.5, kw_only=True)

    @property
    def actor(self) -> DeterministicActor:
        """That of the networks."""
        return self.networks.actor

    def update(self, batch: Batch, turn: Turn, measure: bool = False) -> Report:
        """Move the critics, and on their turn the actor and the target networks.

        :param measure: measure how the tasks' gradients conflict, too, which costs several backward passes.
        """
        report, batch = Report(), self.deal(batch)
        no_entropy = self.temperatures.values()  # 0
        # y = r + gamma (1 - terminated) min_n Q_target_n(s', a'), a' = clip(mu_target(s') + clip(noise))
        target = self.target(batch, no_entropy)
        # PopArt: the statistics of y move, and the critics' heads with them, so that no value changes
        target = self.rescale(target)

        # critics: L_i = mean_B sum_n loss(Q_n(s, a), y)
        with self._record("critic") as critic_tape:
            outputs = self.q_outputs(self.critic, batch.observations, batch.actions)
        critic_losses = self.critic_losses(outputs, target)
        # but of tasks whose loss explodes
        given = Given(batch, no_entropy, kept(self.of_tasks(critic_losses), self.loss_limit), target, None)
        self._step("critic", critic_losses, critic_tape, given, measure, report)

        actor_losses = None
        if turn.actor:
            # actor: L_i = -mean_B Q_1(s, mu(s)), the critics of now are constants
            with self._record("actor") as actor_tape:
                actions = self.actor.actions(batch.observations)
            actor_losses = self.actor_losses(batch.observations, actions)
            self._step("actor", actor_losses, actor_tape, given, measure, report)
            report.numbers["actor_loss"] = actor_losses = self.of_tasks(actor_losses)
            self._trusted = True

        if turn.target:
            # Q_target_n <- Q_target_n + tau (Q_n - Q_target_n), and the actor's likewise
            self.follow(self.critic_target, self.critic)
            self.follow(self.networks.actor_target, self.actor)
        networks = self.critic, self.critic_target, self.actor, self.networks.actor_target
        set_back(networks, self.of_tasks(critic_losses), self.loss_limit)
        self._conclude(report, critic_losses, actor_losses, no_entropy, outputs)
        return report

    def critic_losses(
        self, outputs: Float[Tensor, "critics tasks rows outputs"], target: Float[Tensor, "tasks rows targets"]
    ) -> Float[Tensor, " losses"]:
        """As for SAC, but of a scalar critic the whole square, where SAC takes half."""
        losses = super().critic_losses(outputs, target)
        return 2 * losses if self.critic.values.num_outputs == 1 else losses

    def actor_losses(self, observations: Tensor, actions: Tensor) -> Float[Tensor, " losses"]:
        """Mean of -Q(s, a), likewise: the first critic's, or the mean of all if the target takes that."""
        return self.mean("actor", -self.q_values(self.q_outputs(self.critic, observations, actions), first=True))

    @torch.no_grad()
    def target(self, batch: Batch, no_entropy: Float[Tensor, " tasks"]) -> Float[Tensor, "tasks rows targets"]:
        """Return what the critics learn, in the units of the return scale; a scalar critic has one target.

        With n steps the reward is their discounted sum, and gamma is gamma^n.
        """
        limit = self.target_noise_clip
        noise = (self.target_noise * torch.randn_like(batch.actions)).clamp(-limit, limit)
        next_actions = (self.networks.actor_target.actions(batch.next_observations) + noise).clamp(-1, 1)
        outputs = self.q_outputs(self.critic_target, batch.next_observations, next_actions)
        return self.backed_up(batch, outputs, no_entropy)

    def actor_losses_again(self, given: Given) -> Float[Tensor, " losses"]:
        """Return the actor's losses of the same batch, with the parameters of now."""
        return self.actor_losses(given.batch.observations, self.actor.actions(given.batch.observations))
