"""From single trainings to numbers: what joint training gained over training alone, with 95 % intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped]

from mtrl.diagnostics import conflict_intensity
from scripts.analysis.intervals import half_width
from scripts.studies.supervised.contracts import Task
from scripts.studies.supervised.training import Exam, Outcome

ALONE = "alone"  # in place of an aggregator: one network per task
BASELINE = "mean"
CORRELATED = 4  # tasks, at least, for a correlation over them


class Estimate(NamedTuple):
    """A mean over seeds, and half the width of its 95 % t-interval; NaN where there is none."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value per seed."""
        half = half_width(np.array(values))
        return cls(float(np.mean(values)), math.nan if half is None else half)


@dataclass(frozen=True)
class Run:
    """One aggregator on one architecture with one seed; for `alone`, a network per task."""

    architecture: str
    aggregator: str
    seed: int
    outcome: Outcome
    tci: list[float]
    """Per task, in its first metric; NaN for `alone`."""
    delta_m: float
    """See the function of that name; NaN for `alone`."""

    @classmethod
    def against(
        cls, alone: Outcome, architecture: str, aggregator: str, seed: int, outcome: Outcome, tasks: Sequence[Task]
    ) -> Run:
        """Compare a training with each task's own."""
        if aggregator == ALONE:
            return cls(architecture, aggregator, seed, outcome, [math.nan] * len(tasks), math.nan)
        joint, own = (torch.tensor([task[0] for task in found.exam.metrics]).double() for found in (outcome, alone))
        better = torch.tensor([task.metrics[0].higher_is_better for task in tasks])
        tci = conflict_intensity(joint, own) * (1 - 2 * better.double())
        return cls(architecture, aggregator, seed, outcome, tci.tolist(), delta_m(outcome.exam, alone.exam, tasks))

    @property
    def gcd(self) -> list[float]:
        """Per task: the mean over the others."""
        return self.outcome.gcd.nanmean(1).tolist()


def delta_m(joint: Exam, alone: Exam, tasks: Sequence[Task]) -> float:
    """Return what joint training gained over training alone, in per cent (Maninis et al. 2019, equation 4).

    The mean over tasks of the mean over a task's metrics of the relative change, positive where it is better.
    """
    changes = []
    for task, new, old in zip(tasks, joint.metrics, alone.metrics, strict=True):
        signs = [1 if metric.higher_is_better else -1 for metric in task.metrics]
        relative = [s * (a - b) / abs(b) if b else math.nan for s, a, b in zip(signs, new, old, strict=True)]
        changes.append(np.mean(relative))
    return 100 * float(np.mean(changes))


def together(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of networks of one task each as one."""
    exams = [_joined([part.curves[epoch][1] for part in parts]) for epoch in range(len(parts[0].curves))]
    losses = [[part.curves[epoch][0][0] for part in parts] for epoch in range(len(exams))]
    return Outcome(
        exam=exams[-1],
        curves=list(zip(losses, exams, strict=True)),
        gcd=torch.full((len(parts), len(parts)), math.nan),
        conflicts=math.nan,
        backward_ms=sum(part.backward_ms for part in parts),
        memory_mb=max(part.memory_mb for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


def _joined(exams: Sequence[Exam]) -> Exam:
    return Exam([exam.losses[0] for exam in exams], [exam.metrics[0] for exam in exams])


class Line(NamedTuple):
    """What the runs of one aggregator on one architecture come to."""

    architecture: str
    aggregator: str
    seeds: int
    whole: dict[str, Estimate]
    """delta_m, vs mean, gcd, conflicts, backward_ms, memory_mb, and the correlation of TCI and GCD over tasks."""
    metrics: list[Estimate]
    """Per task: its first metric."""
    tci: list[Estimate]


def summarise(runs: Sequence[Run]) -> list[Line]:
    """Return one line per architecture and aggregator, in the order of the runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.architecture, run.aggregator), []).append(run)
    return [_line(group, groups.get((architecture, BASELINE), [])) for (architecture, _), group in groups.items()]


def _line(group: Sequence[Run], baseline: Sequence[Run]) -> Line:
    first = group[0]
    plain = {} if first.aggregator == BASELINE else {run.seed: run.delta_m for run in baseline}
    whole = {
        "delta_m": [run.delta_m for run in group],
        "vs mean": [run.delta_m - plain.get(run.seed, math.nan) for run in group],
        "gcd": [float(run.outcome.gcd.nanmean()) for run in group],
        "conflicts": [100 * run.outcome.conflicts for run in group],
        "backward_ms": [run.outcome.backward_ms for run in group],
        "memory_mb": [run.outcome.memory_mb for run in group],
        "correlation": [_correlation(run) for run in group],
    }
    metrics = zip(*([task[0] for task in run.outcome.exam.metrics] for run in group), strict=True)
    return Line(
        first.architecture,
        first.aggregator,
        len(group),
        {name: Estimate.of(values) for name, values in whole.items()},
        [Estimate.of(values) for values in metrics],
        [Estimate.of(values) for values in zip(*(run.tci for run in group), strict=True)],
    )


def _correlation(run: Run) -> float:
    """Return the rank correlation of TCI and GCD over tasks: by ranks, as tasks have different units."""
    if len(run.tci) < CORRELATED or run.aggregator == ALONE:
        return math.nan
    relative = np.array(run.tci) / np.abs([task[0] for task in run.outcome.exam.metrics])
    return float(stats.spearmanr(relative, run.gcd).statistic)


def records(runs: Sequence[Run], tasks: Sequence[Task]) -> tuple[list[dict[str, object]], ...]:
    """Return the rows of runs.csv, tasks.csv and curves.csv."""
    return [dict(_run_row(run)) for run in runs], [*_task_rows(runs, tasks)], [*_curve_rows(runs, tasks)]


def _run_row(run: Run) -> Iterator[tuple[str, object]]:
    yield from _key(run).items()
    yield "delta_m", run.delta_m
    yield "gcd", float(run.outcome.gcd.nanmean())
    for name in ("conflicts", "backward_ms", "memory_mb", "seconds"):
        yield name, getattr(run.outcome, name)


def _task_rows(runs: Sequence[Run], tasks: Sequence[Task]) -> Iterator[dict[str, object]]:
    for run in runs:
        own = zip(tasks, run.outcome.exam.losses, run.outcome.exam.metrics, run.tci, run.gcd, strict=True)
        for task, loss, values, tci, gcd in own:
            metrics = {metric.name: value for metric, value in zip(task.metrics, values, strict=True)}
            yield {**_key(run), "task": task.name, "tci": tci, "gcd": gcd, "test_loss": loss, **metrics}


def _curve_rows(runs: Sequence[Run], tasks: Sequence[Task]) -> Iterator[dict[str, object]]:
    for run in runs:
        for epoch, (training, exam) in enumerate(run.outcome.curves, 1):
            own = zip(tasks, training, exam.losses, exam.metrics, strict=True)
            for task, loss, test_loss, values in own:
                row = {"task": task.name, "epoch": epoch, "train_loss": loss, "test_loss": test_loss}
                metrics = {metric.name: value for metric, value in zip(task.metrics, values, strict=True)}
                yield {**_key(run), **row, **metrics}


def _key(run: Run) -> dict[str, object]:
    return {"architecture": run.architecture, "aggregator": run.aggregator, "seed": run.seed}
