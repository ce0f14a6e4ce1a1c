"""How long an update takes with each aggregator, in turns within one process: the ratios are what to quote."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rich.table import Table

from scripts.common import methods
from scripts.studies.supervised.contracts import Dataset, Split
from scripts.studies.supervised.datasets.cifar100 import Cifar100
from scripts.studies.supervised.datasets.multimnist import PAIRS, MultiMNIST
from scripts.studies.supervised.training import Update, new_network


class Case(NamedTuple):
    """A data set's network and batch, with random pixels in place of its files."""

    kind: type[Dataset]
    rows: int
    shape: tuple[int, int, int]
    classes: int
    own: bool
    """Whether each row belongs to one task."""

    def split(self) -> Split:
        """Return one batch."""
        generator = torch.Generator().manual_seed(0)
        tasks = len(self.kind.tasks)
        targets = torch.randint(self.classes, (tasks, self.rows), generator=generator)
        members = tuple(torch.arange(self.rows).chunk(tasks)) if self.own else None
        return Split(torch.rand(self.rows, *self.shape, generator=generator), tuple(targets), members)


CASES = {
    "multimnist": Case(MultiMNIST, MultiMNIST.batch_size, (1, 28, 28), 10, own=False),
    "cifar100": Case(Cifar100, 20 * Cifar100.batch_size, (3, 32, 32), 5, own=True),
}


def measure(case: Case, architecture: str, aggregators: Sequence[tuple[str, bool]], rounds: int) -> list[list[float]]:
    """Return the processor seconds of each aggregator's updates, forward pass and optimizer step included.

    :param aggregators: names, and whether they see the gradients of the representation.
    :param rounds: updates of each; one more comes first and is not counted.
    """
    split = case.split()
    updates = [_update(case, architecture, name, on_features, split) for name, on_features in aggregators]
    times: list[list[float]] = [[] for _ in updates]
    for number in range(rounds + 1):
        for update, own in zip(updates, times, strict=True):
            start = time.process_time()
            update()
            if number:
                own.append(time.process_time() - start)
    return times


def _update(case: Case, architecture: str, name: str, on_features: bool, split: Split) -> Callable[[], None]:
    network = new_network(architecture, case.kind.encoder, case.kind.tasks, seed=0)
    update = Update(network, methods.build(name, seed=0), case.kind.tasks, split, on_features)
    update.count = 1  # not one of those that measure conflict
    optimizer, rows = torch.optim.Adam(network.parameters()), torch.arange(case.rows)

    def step() -> None:
        update(rows)
        update.count = 1
        optimizer.step()
        update.look_back()

    return step


def table(case: Case, names: Sequence[str], times: Sequence[Sequence[float]]) -> Table:
    """Return medians, and ratios to the first: medians over the rounds."""
    result = Table("aggregator", title=f"An update of {case.rows} rows, {len(case.kind.tasks)} tasks: processor time")
    epoch = "" if case.own else f"epoch of {PAIRS[0]:,}, s"
    for heading in ("ms", f"x {names[0]}", *filter(None, [epoch])):
        result.add_column(heading, justify="right")
    for name, own in zip(names, times, strict=True):
        ratio = statistics.median(a / b for a, b in zip(own, times[0], strict=True))
        cells = [f"{1000 * statistics.median(own):.1f}", f"{ratio:.2f}"]
        result.add_row(name, *cells, *([f"{PAIRS[0] / case.rows * statistics.median(own):.1f}"] if epoch else []))
    return result
