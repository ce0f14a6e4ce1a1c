"""How the task enters a network: what its torso sees of an observation, whose last T columns are the task's one-hot.

A conditioning is one class and one row in `agents.networks.conditionings`. Its constructor takes the columns without
the one-hot, T and the number of members; whatever else it names is a setting of the networks, as is `embedding_size`.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.networks.base import Inputs, Torso
from agents.networks.layers import TaskColumns


class Conditioning(nn.Module):
    """The task does not enter: for a torso that takes it apart from its features (`Torso.takes_task`).

    :param plain: columns of the observation without its one-hot, and of what else the network sees.
    :param num_members: N networks side by side; None: one, without a dimension for it.
    """

    of_both: ClassVar[bool] = False  # with encoders of its own, for actor and critics: no torso may take the task apart

    def __init__(self, plain: int, num_tasks: int, num_members: int | None):
        super().__init__()
        self.num_tasks, self.num_members = num_tasks, num_members
        self.inputs = Inputs(plain, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Return what the torso sees: (rows, columns), or the same with the members before."""
        return self._joined([observations[:, : -self.num_tasks], *others])

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to one task each and take no part in surgery."""
        return []

    def check(self, torso: Torso) -> None:
        """Refuse a torso that does not do its part.

        :raises ValueError: saying what it should do.
        """

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if self.num_members is None:
            return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        if parts[-1].ndim == 2:  # the members see the same
            return torch.cat(parts, dim=-1).expand(self.num_members, -1, -1)
        return torch.cat([part.expand(self.num_members, -1, -1) for part in parts], dim=-1)


class OneHot(Conditioning):
    """The one-hot is a part of the observation like the others."""

    def __init__(self, plain: int, num_tasks: int, num_members: int | None):
        super().__init__(plain, num_tasks, num_members)
        self.inputs = Inputs(plain + num_tasks, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Whole observations."""
        return self._joined([observations, *others])


class OwnColumns(Conditioning):
    """As the one-hot; but its columns in the first layer are parameters apart, which stay out of surgery."""

    def __init__(self, plain: int, num_tasks: int, num_members: int | None):
        super().__init__(plain, num_tasks, num_members)
        self.inputs = Inputs(plain, num_tasks, num_members, partial(TaskColumns, num_tasks=num_tasks))

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Return the columns, with the one-hot last."""
        plain, one_hot = observations[:, : -self.num_tasks], observations[:, -self.num_tasks :]
        return self._joined([plain, *others, one_hot])

    def check(self, torso: Torso) -> None:
        """Expect the one-hot's columns beside the first layer.

        :raises ValueError: if there are none.
        """
        if not any(isinstance(layer, TaskColumns) for layer in torso.modules()):
            raise ValueError(
                "conditioning='own-columns' needs a torso whose first layer is inputs.first(inputs.linear(...)); "
                f"{type(torso).__name__} has none such. Build it so, or take another conditioning."
            )


class TaskEmbedding(Conditioning):
    """A learned vector of unit length per task (and member of an ensemble), in the place of its one-hot."""

    def __init__(self, plain: int, num_tasks: int, num_members: int | None, embedding_size: int = 32):
        super().__init__(plain, num_tasks, num_members)
        self.table = nn.Parameter(torch.randn(*self.inputs.members, num_tasks, embedding_size))
        self.inputs = Inputs(plain + embedding_size, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Each row's vector comes last."""
        plain, one_hot = observations[:, : -self.num_tasks], observations[:, -self.num_tasks :]
        return self._joined([plain, *others, self.vectors(one_hot)])

    def vectors(self, one_hot: Tensor) -> Tensor:
        """Each row's own vector: (*members, rows, embedding_size)."""
        return one_hot @ F.normalize(self.table, dim=-1)

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the vectors."""
        return [self.table]
