"""One network, trained on its tasks with an aggregator and examined after each epoch."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import mtrl
from agents import NonFiniteError
from mtrl.diagnostics import conflict_degree
from scripts.studies.supervised.architectures import ARCHITECTURES, Architecture
from scripts.studies.supervised.contracts import Encoder, Split, Task
from scripts.studies.supervised.memory import PeakMemory

MEASURED = 10  # conflict is measured at every so many updates
WEIGHED = 1  # memory at the second, when an aggregator has its state
EXAMINED = 1_000  # rows at a time, and no more than so many numbers of input
NUMBERS = 2**22


class NonFiniteLoss(NonFiniteError):
    """The loss of a task became NaN or infinite."""

    def __init__(self, task: str, update: int) -> None:
        super().__init__(task, "loss", update)
        self.args = (
            f"the loss of task {task} became NaN or infinite at update {update}. Training stopped, nothing was "
            "written. Try a lower --learning-rate, or look for such numbers in the data.",
        )


class Plan(NamedTuple):
    """How long and how a network is trained: the same for every aggregator."""

    epochs: int
    updates: int
    """In an epoch."""
    batch_size: int
    """Rows in a batch; of each task, where rows belong to tasks."""
    learning_rate: float
    seed: int


class Exam(NamedTuple):
    """What a network's answers are worth on a split, per task."""

    losses: list[float]
    metrics: list[list[float]]


class Outcome(NamedTuple):
    """What a trained network is worth, and what its training was like."""

    exam: Exam
    """On the test rows, after the last epoch."""
    curves: list[tuple[list[float], Exam]]
    """After each epoch: the tasks' mean losses in training during it, and the test."""
    gcd: Float[Tensor, "tasks tasks"]
    """Gradient conflict degree of each pair, 1 - cosine, on average over training; NaN on the diagonal."""
    conflicts: float
    """Share of pairs in conflict, on average over the measured updates; NaN for one task."""
    backward_ms: float
    """Milliseconds of processor time for an update's backward pass, aggregation included: the median, without the
    measured updates."""
    memory_mb: float
    """Megabytes of the tensors that one such backward pass makes, at most at once; NaN of a single update."""
    seconds: float
    """Duration of training."""


def new_network(architecture: str, encoder: Encoder, tasks: Sequence[Task], seed: int) -> Architecture:
    """Return the network of that name; its first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](encoder, [task.outputs for task in tasks])


def updates_per_epoch(split: Split, batch_size: int) -> int:
    """Return how many updates show each row of the largest task once; what does not fill a batch is left out."""
    return max(1, max(split.sizes()) // batch_size)


def batches(split: Split, plan: Plan, epoch: int, names: Sequence[int]) -> Iterator[Tensor]:
    """Yield the row numbers of an epoch's batches, (rows,); where rows belong to tasks, block t holds those of task t.

    They depend on the seed, the epoch and the task alone, so that a task meets the same rows alone as with others.

    :param names: a number for each task by which its order is drawn.
    """
    count = plan.updates * plan.batch_size
    if split.members is None:
        yield from _order(torch.arange(len(split.inputs)), count, (plan.seed, epoch, 0)).split(plan.batch_size)
        return
    orders = [
        _order(rows, count, (plan.seed, epoch, 1 + name)) for rows, name in zip(split.members, names, strict=True)
    ]
    for blocks in torch.stack(orders).split(plan.batch_size, dim=1):
        yield blocks.flatten()


def _order(rows: Tensor, count: int, seeds: tuple[int, int, int]) -> Tensor:
    """So many of the rows in random order; each comes again only when all have come."""
    generator = torch.Generator().manual_seed((seeds[0] * 1_000_003 + seeds[1]) * 1_000_003 + seeds[2])
    rounds = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(math.ceil(count / len(rows)))]
    return torch.cat(rounds)[:count]


def train(
    network: Architecture,
    aggregator: mtrl.Aggregator,
    tasks: Sequence[Task],
    splits: tuple[Split, Split],
    plan: Plan,
    names: Sequence[int],
    tick: Callable[[], object] = lambda: None,
    on_features: bool = False,
) -> Outcome:
    """Train all tasks in one network with Adam.

    :param splits: rows to train on and to test on, of these tasks.
    :param names: see `batches`.
    :param tick: called after each update.
    :param on_features: whether the aggregator sees the gradients of the representation.
    :raises NonFiniteLoss: naming the task.
    """
    training, test = splits
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
    update = Update(network, aggregator, tasks, training, on_features)
    curves, seconds = [], 0.0
    for epoch in range(plan.epochs):
        start, total = time.perf_counter(), torch.zeros(len(tasks), dtype=torch.float64)
        for rows in batches(training, plan, epoch, names):
            total += update(rows)
            optimizer.step()
            update.look_back()
            tick()
        seconds += time.perf_counter() - start
        curves.append(((total / plan.updates).tolist(), examine(network, tasks, test)))
    costs = update.backward_ms(), update.memory / 1e6, seconds
    return Outcome(curves[-1][1], curves, *update.conflict(), *costs)


class Update:
    """Losses of a batch and the gradients of all parameters; keeps what was measured on the way."""

    def __init__(
        self,
        network: Architecture,
        aggregator: mtrl.Aggregator,
        tasks: Sequence[Task],
        split: Split,
        on_features: bool = False,
    ) -> None:
        self.network, self.aggregator, self.tasks, self.split = network, aggregator, tasks, split
        self.blocks, self.on_features = split.members is not None, on_features
        self.shared, self.own = network.shared_parameters(), network.task_parameters()
        if not on_features:  # else it begins with the first gradients
            aggregator.reset(len(tasks), sum(parameter.numel() for parameter in self.shared))
        self.rows = torch.empty(0)
        self.count = 0
        self.degrees: list[Tensor] = []
        self.times: list[float] = []
        self.memory = math.nan

    def __call__(self, rows: Tensor) -> Float[Tensor, " tasks"]:
        """Write the gradients of a batch; return its losses."""
        self.rows = rows
        measured = len(self.tasks) > 1 and self.count % MEASURED == 0
        if self.blocks and self.network.recordable:
            with mtrl.record(self.network, len(self.tasks), self.own, trusted=self.count > 0) as tape:
                losses = self.losses()
            where: dict[str, Any] = {"tape": tape}
        else:
            losses = self.losses()
            where = {"parameters": self.shared, "task_parameters": self.own}
            if self.on_features:
                where["features"] = self.network.representation
        self._check(losses)
        start = time.process_time()  # on one thread: what else the machine does is not counted
        weighed = self.count == WEIGHED and not measured
        with PeakMemory() if weighed else nullcontext() as weight:
            report = mtrl.backward(losses, self.aggregator, diagnostics=measured, **where)
        if report:
            self.degrees.append(conflict_degree(report["cosines"]))  # cosines: the Gramian of unit gradients
        elif weight is not None:
            self.memory = weight.peak
        else:
            self.times.append(time.process_time() - start)
        self.count += 1
        return losses.detach()

    def losses(self) -> Float[Tensor, " tasks"]:
        """Return each task's loss on the batch."""
        answers = self.network(self.split.inputs[self.rows], self.blocks)
        own = self.network.per_task(self.rows, self.blocks)
        found = zip(self.tasks, answers, self.split.targets, own, strict=True)
        return torch.stack([task.loss(answer, target[rows]) for task, answer, target, rows in found])

    def look_back(self) -> None:
        """Let an aggregator that asks for it see the losses after the step: one more forward pass."""
        if self.aggregator.looks_back:
            with torch.no_grad():
                self.aggregator.after_step(self.losses())

    def conflict(self) -> tuple[Tensor, float]:
        """Return the mean GCD of each pair, and the share of pairs in conflict."""
        size = len(self.tasks)
        if not self.degrees:
            return torch.full((size, size), math.nan), math.nan
        degrees = torch.stack(self.degrees).double()
        pairs = torch.triu_indices(size, size, 1)
        return degrees.mean(0).fill_diagonal_(math.nan), float((degrees[:, *pairs] > 1).double().mean())

    def backward_ms(self) -> float:
        """Return the median processor time of a backward pass."""
        return 1000 * statistics.median(self.times) if self.times else math.nan

    def _check(self, losses: Tensor) -> None:
        finite = losses.detach().isfinite()
        if not finite.all():
            raise NonFiniteLoss(self.tasks[int(finite.int().argmin())].name, self.count)


@torch.no_grad()
def examine(network: Architecture, tasks: Sequence[Task], split: Split) -> Exam:
    """Return losses and metrics of each task on its rows of the split."""
    parts: list[list[list[Tensor]]] = [[[] for _ in task.metrics] for task in tasks]
    sums, counts = [0.0] * len(tasks), [0] * len(tasks)
    belongs = torch.ones(len(tasks), len(split.inputs), dtype=torch.bool)
    if split.members is not None:
        belongs.zero_()
        for row, members in zip(belongs, split.members, strict=True):
            row[members] = True
    network.eval()
    size = min(EXAMINED, max(1, NUMBERS // split.inputs[torch.tensor([0])].numel()))
    for rows in torch.arange(len(split.inputs)).split(size):
        answers = network(split.inputs[rows])
        for number, (task, answer, target) in enumerate(zip(tasks, answers, split.targets, strict=True)):
            own = belongs[number, rows]
            if size := int(own.sum()):
                said, asked = answer[own], target[rows[own]]
                sums[number] += size * task.loss(said, asked).item()
                counts[number] += size
                for metric, found in zip(task.metrics, parts[number], strict=True):
                    found.append(metric.measure(said, asked))
    network.train()
    metrics = [
        [metric.result(metric.join(part)) for metric, part in zip(task.metrics, found, strict=True)]
        for task, found in zip(tasks, parts, strict=True)
    ]
    return Exam([total / count for total, count in zip(sums, counts, strict=True)], metrics)
