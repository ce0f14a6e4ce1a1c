"""Rounds of updates: how many at once, which of them moves what, and when the networks begin anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agents.device.captured import CapturedUpdates
from agents.learning.update import TaskUpdates, Turn
from mtrl.precision import float32_products

CHECK_EVERY = 100  # updates between two looks at the non-finite flags: looking synchronises with the device


class UpdateRounds(TaskUpdates):
    """What the host decides between updates; `agents.MTSAC` sets it up."""

    policy_delay: int
    log_conflicts: int
    reset_at: Sequence[int]
    _captured: CapturedUpdates | None
    _log_ent_coef_start: float
    _resets: int
    _refreshed: int

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """As Stable-Baselines3's.

        :raises NonFiniteError: if a loss is not finite any more, within 100 updates or at the end.
        """
        result = super().learn(*args, **kwargs)
        self.guard.check()
        return result

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """`gradient_steps` updates of critic, actor, temperatures and target network, `batch_size` rows per task each.

        :raises NonFiniteError: within 100 updates of the first non-finite loss.
        """
        with self.timed("learn"), float32_products(tf32=self.actor.precision == "tf32"):
            self.policy.set_training_mode(True)
            self._begin_anew_where_due()
            self._update_learning_rate(self._optimizers())
            self._update_number.fill_(self._n_updates)
            step = 0
            while step < gradient_steps:
                count, measure = self._next_updates(gradient_steps - step)
                turns = tuple(self._turn(step + i, self._n_updates + i) for i in range(count))
                if measure or self._captured is None:
                    self._draw_and_update(batch_size, turns, measure)
                else:
                    self._captured(batch_size, turns)
                step += count
                self._n_updates += count
                if self._n_updates % CHECK_EVERY < count:
                    self.guard.check()

    def _turn(self, step: int, update: int) -> Turn:
        """Of one update: the `step`-th of this round and the `update`-th of all, both from 0."""
        return Turn(actor=update % self.policy_delay == 0, target=step % self.target_update_interval == 0)

    def _begin_anew_where_due(self) -> None:
        """Reset the networks at the steps given, and let the return scale look at the buffer now and then."""
        due = sum(step <= self.steps_per_task for step in self.reset_at)
        reset, self._resets = due > self._resets, due
        if reset:
            self._reset_networks()
        every = self.return_scale.refresh_every
        since = self.steps_per_task - self._refreshed  # negative where `learn` counts from 0 again
        if self._refreshed < 0 or reset or (every and not 0 <= since < every):
            self.return_scale.refresh(self.replay_buffer.rewards())
            self._refreshed = self.steps_per_task

    def _reset_networks(self) -> None:
        """New parameters in the tensors that are there, which a captured graph holds on to."""
        fresh = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        self.policy.load_state_dict(fresh.state_dict())
        with torch.no_grad():
            for optimizer in self._optimizers():
                for moments in optimizer.state.values():
                    torch._foreach_zero_(list(moments.values()))
            if self.log_ent_coef is not None:
                self.log_ent_coef.fill_(self._log_ent_coef_start)
        self._reset_aggregators()

    def _reset_aggregators(self) -> None:
        for network, aggregator in ((self.actor, self.aggregator), (self.critic, self.critic_aggregator)):
            aggregator.reset(self.num_tasks, sum(p.numel() for p in network.shared_parameters()))

    def _next_updates(self, left: int) -> tuple[int, bool]:
        """How many updates to make at once, and whether to measure conflict, which is one eager update."""
        every = -(-self.log_conflicts // self.policy_delay) * self.policy_delay  # where the actor moves, too
        until_measured = -self._n_updates % every if every else left
        together = self._captured.together if self._captured is not None else 1
        return (together if 1 < together <= min(left, until_measured) else 1), until_measured == 0

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self._captured is not None:
            self._captured.hold_learning_rate()
