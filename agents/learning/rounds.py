"""Rounds of updates: what an update moves, when conflict is measured, and when the networks begin anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from agents.learning.guard import FiniteGuard
from agents.learning.metrics import TaskMetrics
from agents.learning.update import Batch, Turn, Update

CHECK_EVERY = 100  # updates between two looks at the non-finite flags: looking synchronises with the device


@runtime_checkable
class Buffer(Protocol):
    """What transitions are drawn from: `agents.TaskReplayBuffer`."""

    rows: Tensor
    generator: torch.Generator

    def sample(self, batch_size: int) -> Any:
        """T blocks of so many rows, in the order of `Batch`."""

    def rewards(self) -> Tensor:
        """All stored rewards (times, T)."""


class NotedUpdate:
    """An update with what surrounds it on the device: the batch is drawn before, and its numbers are noted after."""

    def __init__(self, update: Update, buffer: Buffer, metrics: TaskMetrics, guard: FiniteGuard):
        self.update, self.buffer, self.metrics, self.guard = update, buffer, metrics, guard
        self.number = torch.zeros((), dtype=torch.int64, device=buffer.rows.device)  # of the update, for the device

    def __call__(self, batch_size: int, turn: Turn, measure: bool = False) -> None:
        """One update with `batch_size` rows per task."""
        report = self.update.update(Batch(*self.buffer.sample(batch_size)), turn, measure)
        self.guard.watch(report.watched, self.number)
        self.number += 1
        self.metrics.note(**report.numbers)
        self.metrics.measured |= report.measured

    def generators(self) -> list[torch.Generator]:
        """Return those that it draws from beside torch's: of the buffer, and of methods that draw."""
        methods = self.update.aggregators.values()
        own = (getattr(each, "generator", None) for method in methods for each in method.modules())
        return [self.buffer.generator, *(g for g in own if isinstance(g, torch.Generator))]


class UpdateRounds:
    """What the host decides between updates.

    :param replay: makes an update that nothing is measured in, such as a captured one; None: `update` does.
    :param policy_delay: updates of the critics per update of the actor: in the first of them, or in the last if the
        update is `delayed`.
    :param target_update_interval: updates of a round per update of the target critics, the first included.
    :param log_conflicts: updates between two measurements of conflict; 0: none.
    :param reset_at: steps per task at which the networks begin anew.
    """

    def __init__(
        self,
        update: NotedUpdate,
        replay: Callable[[int, Turn], None] | None = None,
        *,
        policy_delay: int = 1,
        target_update_interval: int = 1,
        log_conflicts: int = 0,
        reset_at: Sequence[int] = (),
    ):
        self._update, self._replay = update, replay
        self._policy_delay, self._target_update_interval = policy_delay, target_update_interval
        # conflict is measured where the actor moves, too
        self._measure_every = -(-log_conflicts // policy_delay) * policy_delay
        self._reset_at = tuple(reset_at)
        self._resets, self._refreshed = 0, -1  # networks begun anew; steps at the last look of the return scale

    def begin(self, steps_per_task: int, number: int, restart_networks: Callable[[], None]) -> None:
        """Before a round: begin the networks anew where it is time, and let the return scale look at the buffer.

        :param number: of the next update, of all from 0.
        """
        due = self._due(steps_per_task)
        reset, self._resets = due > self._resets, due
        if reset:
            restart_networks()
        scale, since = self._update.update.scale, steps_per_task - self._refreshed
        # `since` is negative where `learn` counts from 0 again
        if self._refreshed < 0 or reset or (scale.refresh_every and not 0 <= since < scale.refresh_every):
            scale.refresh(self._update.buffer.rewards())
            self._refreshed = steps_per_task
        self._update.number.fill_(number)

    def update(self, batch_size: int, step: int, number: int) -> None:
        """One update with `batch_size` rows per task.

        :param step: of the update within its round, from 0.
        :param number: of the update, of all from 0.
        """
        turn, measure = self.turn(step, number), self.measures(number)
        if measure or self._replay is None:
            self._update(batch_size, turn, measure)
        else:
            self._replay(batch_size, turn)

    def seed(self, seed: int) -> None:
        """Begin the random streams of the updates anew."""
        for generator in self._update.generators():
            generator.manual_seed(seed)

    def turn(self, step: int, number: int) -> Turn:
        """Return what that update moves."""
        delayed = self._update.update.delayed
        actor, target = self._on_turn(number, self._policy_delay), step % self._target_update_interval == 0
        return Turn(actor, target and (actor or not delayed))

    def measures(self, number: int) -> bool:
        """Whether that update measures conflict."""
        return self._measure_every > 0 and self._on_turn(number, self._measure_every)

    def _on_turn(self, number: int, every: int) -> bool:
        """Whether that update is the first of so many; the last, if the algorithm lets its critics learn before."""
        return (number + self._update.update.delayed) % every == 0

    def pass_resets(self, steps_per_task: int) -> None:
        """Count the resets up to these steps as made, of a list that is another one than the saved counter's."""
        self._resets = self._due(steps_per_task)

    def _due(self, steps_per_task: int) -> int:
        return sum(step <= steps_per_task for step in self._reset_at)

    def counters(self) -> dict[str, int]:
        """Return what the next rounds depend on, by its name in a saved agent."""
        return {"_resets": self._resets, "_refreshed": self._refreshed}

    def load_counters(self, saved: Mapping[str, Any]) -> None:
        """Go on from `counters`."""
        self._resets, self._refreshed = saved["_resets"], saved["_refreshed"]
