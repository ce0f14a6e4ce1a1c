"""Notice numbers that are not finite or explode, and whose they were, without asking the device at every update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

QUANTITIES = ("critic loss", "actor loss", "temperature")
LIMIT = 1e20  # a loss beyond it is lost as well: a value is off by 1e10, and the squares are about to overflow


class NonFiniteError(RuntimeError):
    """A loss or temperature became NaN or exceeded 1e20; `task` (None: all), `quantity`, `update` tell the first.

    :param source: what the task's environment gave that was not finite, "observation" or "reward"; None: it gave none.
    """

    def __init__(self, task: str | None, quantity: str, update: int, source: str | None = None):
        self.task, self.quantity, self.update, self.source = task, quantity, update, source
        whose = f"task {task}" if task else "all tasks"
        advice = "Try a lower learning rate, gradient clipping, or a smaller reward scale."
        if source:
            advice = f"The task's environment gave {source}s that are not finite: mend it, other settings do not help."
        super().__init__(
            f"The {quantity} of {whose} became non-finite (NaN, or beyond {LIMIT:g}) at update {update}. "
            f"Training stopped. {advice}"
        )


class FiniteGuard:
    """Flags on the device: for each quantity and task the first update at which it was not a number below 1e20.

    :param task_names: T names, for the message.
    :param source: asked when a number was not finite: which task's environment began it, and by what, if one did.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        device: torch.device,
        source: Callable[[], tuple[int, str] | None] = lambda: None,
    ):
        self.task_names, self._source = task_names, source
        self._first_bad = torch.full((len(QUANTITIES), len(task_names)), -1, device=device)

    def watch(self, values: Float[Tensor, "quantities tasks"], update: int | Tensor) -> None:
        """Take note of this update's `QUANTITIES`; never waits for the device.

        :param update: its number; in a captured graph, which would keep a number for ever, a tensor that counts.
        """
        # where, not masked_fill_: with a tensor as its value, that one waits for a CUDA device
        new = ~(values.abs() < LIMIT) & (self._first_bad < 0)  # a NaN is below nothing
        self._first_bad.copy_(torch.where(new, update, self._first_bad))

    def check(self) -> None:
        """Read the flags.

        :raises NonFiniteError: for the earliest non-finite number. (With shared parameters the others follow at the
            next update, so only the earliest tells anything.)
        """
        first = self._first_bad.cpu().numpy()
        if (first >= 0).any():
            update = int(first[first >= 0].min())
            quantity = int(np.flatnonzero((first == update).any(1))[0])
            tasks = np.flatnonzero(first[quantity] == update)
            # None if all went at once: then the shared parameters went first, and no task is to blame
            task = None if 1 < len(tasks) == len(self.task_names) else self.task_names[tasks[0]]
            given = self._source()
            if given is not None:
                task = self.task_names[given[0]]
            raise NonFiniteError(task, QUANTITIES[quantity], update, given and given[1])
