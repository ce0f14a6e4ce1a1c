"""Four ways to share a network between tasks, over the stages of any encoder: of pictures and of vectors alike.

Each answers all tasks for a batch of rows, and says which of its parameters are shared: only these enter surgery.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from scripts.studies.supervised.contracts import Encoder

EXPERTS = 3  # of MMoE
OWN_SHARE = 0.9  # of a task's own column in the first stitches


class Architecture(nn.Module, ABC):
    """A network in parts: modules that belong to single tasks, and all others, which are shared.

    :param encoder: of the data set.
    :param outputs: of each task's head.
    """

    own: ClassVar[tuple[str, ...]] = ("heads",)
    """Attributes whose parameters belong to single tasks."""
    recordable: ClassVar[bool] = True
    """Whether every shared layer sees all rows at once, so that `mtrl.record` has a place for each task's."""
    represents: ClassVar[bool] = False
    """Whether all that the tasks share goes through `representation`, kept from the last forward pass."""

    def __init__(self, encoder: Encoder, outputs: Sequence[int]) -> None:
        super().__init__()
        self.num_tasks = len(outputs)
        self.representation: Tensor | None = None
        self.stem = encoder.stem()
        self.heads = nn.ModuleList(encoder.head(encoder.stages[-1].features, number) for number in outputs)

    @abstractmethod
    def features(self, rows: Tensor, blocks: bool) -> list[Tensor]:
        """Return each task's features, before its head."""

    def forward(self, rows: Tensor, blocks: bool = False) -> list[Tensor]:
        """Return the answers of each task.

        :param blocks: whether the rows lie in equal task blocks, and each task answers for its own; else all for all.
        """
        return [head(x) for head, x in zip(self.heads, self.features(self.stem(rows), blocks), strict=True)]

    def per_task(self, rows: Tensor, blocks: bool) -> Sequence[Tensor]:
        """Return the rows that each task answers for."""
        return rows.chunk(self.num_tasks) if blocks else [rows] * self.num_tasks

    def task_parameters(self) -> list[nn.Parameter]:
        """Return those that belong to single tasks."""
        return [parameter for name in self.own for parameter in getattr(self, name).parameters()]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return those that enter surgery."""
        own = set(map(id, self.task_parameters()))
        return [parameter for parameter in self.parameters() if id(parameter) not in own]


class HardSharing(Architecture):
    """One encoder for all tasks, and a head each (Caruana 1997)."""

    represents = True

    def __init__(self, encoder: Encoder, outputs: Sequence[int]) -> None:
        super().__init__(encoder, outputs)
        self.trunk = encoder.stack()

    def features(self, rows: Tensor, blocks: bool) -> list[Tensor]:
        """Return the encoder's."""
        self.representation = self.trunk(rows)
        return list(self.per_task(self.representation, blocks))


class MixtureOfExperts(Architecture):
    """MMoE: encoders for all tasks, which each task mixes by a gate of its own on the input (Ma et al. 2018)."""

    own = ("heads", "gates")

    def __init__(self, encoder: Encoder, outputs: Sequence[int]) -> None:
        super().__init__(encoder, outputs)
        self.experts = nn.ModuleList(encoder.stack() for _ in range(EXPERTS))
        self.gates = nn.ModuleList(nn.Linear(encoder.inputs, EXPERTS) for _ in outputs)

    def features(self, rows: Tensor, blocks: bool) -> list[Tensor]:
        """Return the experts', weighted row by row."""
        opinions = torch.stack([expert(rows) for expert in self.experts], dim=1)  # (rows, experts, features, ...)
        own = zip(self.gates, self.per_task(rows, blocks), self.per_task(opinions, blocks), strict=True)
        return [torch.einsum("re,re...->r...", gate(x.flatten(1)).softmax(1), seen) for gate, x, seen in own]


class Attention(Architecture):
    """MTAN: one encoder, and for each task a mask at each of its stages (Liu et al. 2019).

    A mask is a sigmoid of the stage's features and of what the task saw one stage before, brought on by a copy of the
    stage that the tasks share, as in the authors' code. Deviation: a mask is one layer (1 x 1), without normalisation.
    """

    own = ("heads", "masks")

    def __init__(self, encoder: Encoder, outputs: Sequence[int]) -> None:
        super().__init__(encoder, outputs)
        self.trunk = encoder.stack()
        self.onward = nn.ModuleList(stage.build() for stage in encoder.stages[1:])
        self.masks = nn.ModuleList(
            nn.ModuleList(
                _Pointwise(stage.features * (2 if number else 1), stage.features)
                for number, stage in enumerate(encoder.stages)
            )
            for _ in outputs
        )

    def features(self, rows: Tensor, blocks: bool) -> list[Tensor]:
        """Return what each task's last mask lets through."""
        seen: list[Tensor] = []
        for number, stage in enumerate(self.trunk):
            rows = stage(rows)
            before = self.onward[number - 1](torch.cat(seen)).chunk(self.num_tasks) if seen else []
            seen = [
                masks.get_submodule(str(number))(torch.cat([x, before[task]], dim=1) if before else x).sigmoid() * x
                for task, (masks, x) in enumerate(zip(self.masks, self.per_task(rows, blocks), strict=True))
            ]
        return seen


class CrossStitch(Architecture):
    """An encoder per task; after each stage every task goes on with its own mixture of all (Misra et al. 2016).

    Encoders and mixtures are shared: each task's loss reaches all of them. The first mixtures are 0.9 of one's own.
    """

    recordable = False

    def __init__(self, encoder: Encoder, outputs: Sequence[int]) -> None:
        super().__init__(encoder, outputs)
        self.columns = nn.ModuleList(encoder.stack() for _ in outputs)
        others = (1 - OWN_SHARE) / max(1, self.num_tasks - 1)
        first = torch.full((self.num_tasks, self.num_tasks), others).fill_diagonal_(
            OWN_SHARE if self.num_tasks > 1 else 1
        )
        self.stitches = nn.Parameter(first.repeat(len(encoder.stages), 1, 1))

    def features(self, rows: Tensor, blocks: bool) -> list[Tensor]:
        """Return what each column ends with."""
        mixed = [rows] * self.num_tasks
        for stages, stitch in zip(zip(*self.columns, strict=True), self.stitches, strict=True):
            seen = torch.stack([stage(x) for stage, x in zip(stages, mixed, strict=True)])
            mixed = list(torch.einsum("ts,s...->t...", stitch, seen))
        return [self.per_task(x, blocks)[task] for task, x in enumerate(mixed)]


class _Pointwise(nn.Module):
    """The same linear layer at each place: of pictures (rows, features, height, width) and of vectors."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


ARCHITECTURES: dict[str, type[Architecture]] = {
    "hps": HardSharing,
    "mmoe": MixtureOfExperts,
    "mtan": Attention,
    "cross-stitch": CrossStitch,
}
