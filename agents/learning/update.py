"""One update of multi-task SAC as a function of tensors on the device, and of nothing else.

What the host decides (which networks move, measure or not) comes as arguments; counters, fill level, learning rate
and logged numbers are tensors that stay the same and are changed in place. So the same code runs eagerly and inside
the capture of a CUDA graph (`agents.device.captured`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

import mtrl
from agents.collecting.replay import TaskReplayBuffer
from agents.learning.aggregation import looks_back
from agents.learning.metrics import StepPath
from agents.learning.returns import ReturnScale
from agents.networks.policies import MultiTaskActor, MultiTaskCritic
from agents.saving.agent_file import SafeSaves


class Turn(NamedTuple):
    """What an update moves besides the critics."""

    actor: bool  # and the temperatures with it
    target: bool


class TaskUpdates(SafeSaves):
    """The losses of T tasks and the steps down their gradients; `agents.MTSAC` calls it and sets it up."""

    actor: MultiTaskActor  # type: ignore[assignment]
    critic: MultiTaskCritic  # type: ignore[assignment]
    critic_target: MultiTaskCritic  # type: ignore[assignment]
    replay_buffer: TaskReplayBuffer  # type: ignore[assignment]
    max_grad_norm: float | None
    loss_weighting: str
    critic_reduction: str
    ent_coef_min: float
    return_scale: ReturnScale
    _reward_scale: Tensor  # (T,)
    _looked_at: bool  # an update of all networks was made
    _update_number: Tensor  # (), int64: _n_updates, for the device

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        temperatures = [self.ent_coef_optimizer] if self.ent_coef_optimizer is not None else []
        return [self.actor.optimizer, self.critic.optimizer, *temperatures]

    def _record(self, network: MultiTaskActor | MultiTaskCritic) -> AbstractContextManager[mtrl.Tape]:
        # every update computes the same: whether the tape sees all of it is looked at once
        return mtrl.record(network, self.num_tasks, network.task_parameters(), trusted=self._looked_at)

    def _draw_and_update(self, batch_size: int, turns: Sequence[Turn], measure: bool = False) -> None:
        """One update for each turn."""
        for turn in turns:
            self._update(self.replay_buffer.sample(batch_size), turn, measure)

    def _update(self, batch: ReplayBufferSamples, turn: Turn, measure: bool = False) -> None:
        alpha = self._temperatures()
        if turn.actor:
            # One draw of a and log pi at s serves temperature and actor; it comes before the critic's step.
            noise = torch.randn_like(batch.actions)
            with self._record(self.actor) as actor_tape:
                actions_pi, log_prob = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
            self._step_temperatures(self._by_task(log_prob))
        weights = self._loss_weights(alpha)

        target = self.return_scale.adapt(self._target(batch, alpha), self.critic, self.critic_target)
        with self._record(self.critic) as critic_tape:
            outputs = self._critic_outputs(self.critic, batch.observations, batch.actions)
        critic_losses = self._critic_losses(outputs, target)

        def critic_again() -> Tensor:
            after = self._critic_outputs(self.critic, batch.observations, batch.actions)
            return self._critic_losses(after, target) * weights

        self._step("critic", critic_losses * weights, self.critic_aggregator, critic_tape, measure, critic_again)

        actor_losses = None
        if turn.actor:
            # The critic's parameters are constants here: mtrl.backward differentiates by the actor's alone.
            actor_losses = self._actor_losses(batch.observations, actions_pi, log_prob, alpha)

            def actor_again() -> Tensor:
                after = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
                return self._actor_losses(batch.observations, *after, alpha) * weights

            self._step("actor", actor_losses * weights, self.aggregator, actor_tape, measure, actor_again)
            self.task_metrics.note(actor_loss=actor_losses, entropy=-self._by_task(log_prob).mean(-1))
            self._looked_at = True

        if turn.target:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), self.tau)
        self._note(critic_losses, actor_losses, alpha, outputs)

    def _critic_outputs(
        self, critic: MultiTaskCritic, observations: Tensor, actions: Tensor
    ) -> Float[Tensor, "critics tasks rows outputs"]:
        return critic.outputs(observations, actions, blocks=True).unflatten(1, (self.num_tasks, -1))

    def _critic_losses(self, outputs: Float[Tensor, "critics tasks rows outputs"], target: Tensor) -> Tensor:
        """Of each task, (T,): the mean over its rows, the sum over the critics."""
        return self.critic.values.loss(outputs, target).mean(-1).sum(0)

    def _actor_losses(
        self, observations: Tensor, actions: Tensor, log_prob: Tensor, alpha: Tensor
    ) -> Float[Tensor, " tasks"]:
        outputs = self._critic_outputs(self.critic, observations, actions)
        q_pi = self.critic.values.reduce(outputs, self.critic_reduction)
        return (alpha.unsqueeze(1) * self._by_task(log_prob) - q_pi).mean(-1)

    def _by_task(self, rows: Tensor) -> Tensor:
        """(..., T B) -> (..., T, B)."""
        return rows.unflatten(-1, (self.num_tasks, -1))

    def _temperatures(self) -> Float[Tensor, " tasks"]:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _step_temperatures(self, log_prob: Float[Tensor, "tasks rows"]) -> None:
        """Each temperature moves by its own task's loss."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return
        # gradient of -log_alpha_i (mean_B log pi + target entropy): no autograd needed for a linear loss
        assert isinstance(self.target_entropy, float)
        self.log_ent_coef.grad = -(log_prob.detach() + self.target_entropy).mean(-1)
        self.ent_coef_optimizer.step()
        if self.ent_coef_min:
            self.log_ent_coef.data.clamp_(min=math.log(self.ent_coef_min))

    def _loss_weights(self, alpha: Tensor) -> Tensor | float:
        return self.num_tasks * torch.softmax(-alpha.log(), 0) if self.loss_weighting == "temperature" else 1.0

    @torch.no_grad()
    def _target(self, batch: ReplayBufferSamples, alpha: Tensor) -> Float[Tensor, "tasks rows targets"]:
        """What the critics learn: for a scalar critic, K = 1 and, in the units of the return scale,

        y = r + gamma (1 - terminated) (min_n Q_target(s', a') - alpha_i log pi(a' | s')), a' ~ pi(. | s').

        With n steps r is their discounted sum, without the entropies of the states between, and gamma is gamma^n.
        """
        next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations, blocks=True)
        outputs = self._critic_outputs(self.critic_target, batch.next_observations, next_actions)
        by_task = (self.num_tasks, -1, 1)
        entropy = alpha.view(by_task) * next_log_prob.view(by_task)
        scale = self._reward_scale / self.return_scale.divisor(alpha)
        rewards = batch.rewards.view(by_task) * scale.view(by_task)
        gamma = self.gamma if batch.discounts is None else batch.discounts.view(by_task)
        discounts = gamma * (1 - batch.dones.view(by_task))

        def backup(value: Tensor) -> Tensor:
            return rewards + discounts * (value - entropy)

        def shifted_backup(value: Tensor) -> Tensor:
            shift = self.return_scale.shift.view(by_task)  # type: ignore[union-attr]
            return backup(value + shift) - shift

        moves = self.return_scale.shift is not None
        return self.critic_target.values.target(outputs, shifted_backup if moves else backup, self.critic_reduction)

    def _step(
        self,
        name: str,
        losses: Tensor,
        aggregator: mtrl.Aggregator,
        tape: mtrl.Tape,
        measure: bool,
        again: Callable[[], Tensor],
    ) -> None:
        """Reconcile the tasks' gradients of the actor or the critic, clip, and take its optimizer's step.

        :param again: the losses of the same batch with the parameters of then: after the step.
        """
        network = getattr(self, name)
        path = StepPath(losses, network) if measure else None
        found = mtrl.backward(losses, aggregator, tape=tape, diagnostics=measure)
        if self.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
            self.task_metrics.note(**{f"{name}_update_norm": norm})
        network.optimizer.step()
        if path or looks_back(aggregator):
            with torch.no_grad():
                after = again()
            aggregator.after_step(after)
            if path and found:
                found["curvature"] = path.curvature(after)
                self.task_metrics.measured |= {f"{name}_{key}": value for key, value in found.items()}

    @torch.no_grad()
    def _note(self, critic_losses: Tensor, actor_losses: Tensor | None, alpha: Tensor, outputs: Tensor) -> None:
        """Keep what the logs show, on the device, and flag the first non-finite value of each task."""
        watched = [critic_losses, torch.zeros_like(critic_losses) if actor_losses is None else actor_losses, alpha]
        self.guard.watch(torch.stack(watched), self._update_number)
        self._update_number += 1
        self.task_metrics.note(
            critic_loss=critic_losses, ent_coef=alpha, q_value=self.critic.values.value(outputs).mean((0, 2))
        )
        if self.return_scale.measured:
            self.task_metrics.note(return_scale=self.return_scale.divisor(alpha))
