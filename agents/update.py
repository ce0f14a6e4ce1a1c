"""One update of multi-task SAC as a function of tensors on the device, and of nothing else.

What the host decides (target network or not, measure or not) comes as arguments; counters, fill level, learning rate
and logged numbers are tensors that stay the same and are changed in place. So the same code runs eagerly and inside
the capture of a CUDA graph (`agents.captured`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

import mtrl
from agents.persistence import SafeSaves
from agents.policies import MultiTaskActor, MultiTaskCritic
from agents.replay import TaskReplayBuffer
from agents.settings import looks_back
from agents.task_metrics import StepPath


class TaskUpdates(SafeSaves):
    """The losses of T tasks and the steps down their gradients; `agents.MTSAC` calls it and sets it up."""

    actor: MultiTaskActor  # type: ignore[assignment]
    critic: MultiTaskCritic  # type: ignore[assignment]
    critic_target: MultiTaskCritic  # type: ignore[assignment]
    replay_buffer: TaskReplayBuffer  # type: ignore[assignment]
    max_grad_norm: float | None
    loss_weighting: str
    _reward_scale: Tensor  # (T,)
    _update_number: Tensor  # (), int64: _n_updates, for the device

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        temperatures = [self.ent_coef_optimizer] if self.ent_coef_optimizer is not None else []
        return [self.actor.optimizer, self.critic.optimizer, *temperatures]

    def _draw_and_update(self, batch_size: int, targets: tuple[bool, ...], measure: bool = False) -> None:
        """As many updates as `targets` has entries; each says whether the target network moves, too."""
        for update_target in targets:
            self._update(self.replay_buffer.sample(batch_size), update_target, measure)

    def _update(self, batch: ReplayBufferSamples, update_target: bool, measure: bool = False) -> None:
        # One draw of a and log pi at s serves temperature and actor; it comes before the critic's step.
        noise = torch.randn_like(batch.actions)
        with mtrl.record(self.actor, self.num_tasks, self.actor.task_parameters()) as actor_tape:
            actions_pi, log_prob = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
        alpha = self._step_temperatures(self._by_task(log_prob))
        weights = self._loss_weights(alpha)

        target = self._target(batch, alpha)
        with mtrl.record(self.critic, self.num_tasks, self.critic.task_parameters()) as critic_tape:
            q_values = self._by_task(self.critic(batch.observations, batch.actions, blocks=True))  # (N, T, B)
        critic_losses = self._critic_losses(q_values, target)

        def critic_again() -> Tensor:
            q_after = self._by_task(self.critic(batch.observations, batch.actions, blocks=True))
            return self._critic_losses(q_after, target) * weights

        self._step("critic", critic_losses * weights, self.critic_aggregator, critic_tape, measure, critic_again)

        # The critic's parameters are constants here: mtrl.backward differentiates by the actor's alone.
        actor_losses = self._actor_losses(batch.observations, actions_pi, log_prob, alpha)

        def actor_again() -> Tensor:
            after = self.actor.action_log_prob(batch.observations, blocks=True, noise=noise)
            return self._actor_losses(batch.observations, *after, alpha) * weights

        self._step("actor", actor_losses * weights, self.aggregator, actor_tape, measure, actor_again)

        if update_target:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), self.tau)
        self._note(critic_losses, actor_losses, alpha, self._by_task(log_prob), q_values)

    def _critic_losses(self, q_values: Float[Tensor, "critics tasks rows"], target: Tensor) -> Float[Tensor, " tasks"]:
        return 0.5 * (q_values - target).square().mean(-1).sum(0)

    def _actor_losses(
        self, observations: Tensor, actions: Tensor, log_prob: Tensor, alpha: Tensor
    ) -> Float[Tensor, " tasks"]:
        q_pi = self._by_task(self.critic(observations, actions, blocks=True)).amin(0)
        return (alpha.unsqueeze(1) * self._by_task(log_prob) - q_pi).mean(-1)

    def _by_task(self, rows: Tensor) -> Tensor:
        """(..., T B) -> (..., T, B)."""
        return rows.unflatten(-1, (self.num_tasks, -1))

    def _step_temperatures(self, log_prob: Float[Tensor, "tasks rows"]) -> Float[Tensor, " tasks"]:
        """The temperatures before their update, which is made here: each task's own loss, summed over tasks."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return self.ent_coef_tensor
        alpha = self.log_ent_coef.detach().exp()
        # gradient of -log_alpha_i (mean_B log pi + target entropy): no autograd needed for a linear loss
        assert isinstance(self.target_entropy, float)
        self.log_ent_coef.grad = -(log_prob.detach() + self.target_entropy).mean(-1)
        self.ent_coef_optimizer.step()
        return alpha

    def _loss_weights(self, alpha: Tensor) -> Tensor | float:
        return self.num_tasks * torch.softmax(-alpha.log(), 0) if self.loss_weighting == "temperature" else 1.0

    @torch.no_grad()
    def _target(self, batch: ReplayBufferSamples, alpha: Tensor) -> Float[Tensor, "tasks rows"]:
        """y = r + gamma (1 - terminated) (min_n Q_target(s', a') - alpha_i log pi(a' | s')), a' ~ pi(. | s')."""
        next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations, blocks=True)
        next_q = self.critic_target(batch.next_observations, next_actions, blocks=True).amin(0)
        next_value = self._by_task(next_q) - alpha.unsqueeze(1) * self._by_task(next_log_prob)
        rewards = self._by_task(batch.rewards.squeeze(1)) * self._reward_scale.unsqueeze(1)
        return rewards + self.gamma * (1 - self._by_task(batch.dones.squeeze(1))) * next_value

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
    def _note(self, critic_losses: Tensor, actor_losses: Tensor, alpha: Tensor, log_prob: Tensor, q: Tensor) -> None:
        """Keep what the logs show, on the device, and flag the first non-finite value of each task."""
        self.guard.watch(torch.stack([critic_losses, actor_losses, alpha]), self._update_number)
        self._update_number += 1
        self.task_metrics.note(
            critic_loss=critic_losses,
            actor_loss=actor_losses,
            ent_coef=alpha,
            entropy=-log_prob.mean(-1),
            q_value=q.mean((0, 2)),
        )
