"""What the runs of several methods come to, side by side: success, hours, differences to the plain mean."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.analysis import intervals
from scripts.analysis.intervals import Interval, Scores
from scripts.analysis.methods import Method, hours_at
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import as_usage_error, read_json

BASELINE = "mean"
ALONE = "independent"  # the arm that trains every task by itself


@dataclass(frozen=True)
class Row:
    """What the runs of one method come to."""

    method: Method
    scores: Scores  # success (seeds, tasks)
    best: np.ndarray  # (seeds,) highest mean over tasks of all evaluations
    hours: float | None  # median of the trainings' wall clock


def require_finished(runs: Sequence[Run]) -> None:
    """Raise UsageError if a run is neither finished nor broken down."""
    if waiting := [str(run.path) for run in runs if run.status == "unfinished"]:
        raise UsageError(
            f"expected finished runs; {len(waiting)} of {len(runs)} are not: {', '.join(waiting)}. "
            "Go on with them (python -m scripts.train --resume RUN), leave them out, or compare with --at STEPS."
        )


def summarise(method: Method, at: int | None) -> Row:
    """Return the method's success at the end, or at a step.

    :raises UsageError: if that step was not evaluated, or if a task did not report its success there.
    """
    steps, curves = method.curves
    if at is not None and at not in steps:
        raise UsageError(
            f"--at: expected a step at which all runs of {method.label} were evaluated, one of "
            f"{', '.join(map(str, steps))}; found {at}."
        )
    upto = steps <= (steps[-1] if at is None else at)
    scores = curves[:, :, upto][:, :, -1]
    for run, unknown in zip(method.runs, np.isnan(scores), strict=True):
        if unknown.any():
            task = run.protocol.tasks[unknown.argmax()]
            raise UsageError(
                f"expected the success of every task; {task} did not report it in the evaluation of {run.path} at "
                f"{steps[upto][-1]:,} steps. Let its environment say it, or leave the run out."
            )
    best = np.nanmax(curves[:, :, upto].mean(1), axis=1)
    return Row(method, scores, best, hours(method, at))


def hours(method: Method, at: int | None) -> float | None:
    """Median over the finished runs; at a step, over those that came there and tell their times. None without any."""
    found = []
    for run in method.timed:
        if at is not None:
            with contextlib.suppress(UsageError):  # metrics.csv was not kept
                found.append(float(hours_at(run, np.array([at]), evaluations=True)[0]))
        elif run.status == "finished":
            with as_usage_error(run.path / "result.json"):
                found.append(sum(read_json(run.path / "result.json")["seconds"].values()) / 3600)
    return float(np.median(found)) if found else None


def episodes_at(run: Run, step: int) -> int:
    """Episodes per task of its evaluation at a step; of one that broke down before, those that it would have had."""
    with as_usage_error(run.evaluations.path):
        found = [int(row["episodes"]) for row in run.evaluations.read() if run.step_of(row) == step]
    at_the_end = step >= run.protocol.env_steps_per_task
    return found[0] if found else run.protocol.episodes_final if at_the_end else run.protocol.episodes_during


def baseline_of(rows: Sequence[Row]) -> Row | None:
    """Return the plain mean; None without one, and where several settings of it leave open which is meant."""
    configs = [(row, row.method.runs[0].config) for row in rows if row.method.aggregator == BASELINE]
    plain = [row for row, c in configs if not (c.multi_head or c.actor_aggregator or c.critic_aggregator)]
    return plain[0] if len(plain) == 1 else None


def paired(row: Row, baseline: Row) -> tuple[tuple[float, Interval | None], int] | None:
    """`intervals.paired_difference` over the seeds that both have, and how many these are; None without any."""
    found = of_common_seeds(row, baseline)
    return found and (intervals.paired_difference(*found), len(found[0]))


def of_common_seeds(row: Row, other: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both methods' success, (seeds, tasks) each, for the seeds that both have; None without any."""
    common = [seed for seed in row.method.seeds if seed in other.method.seeds]
    if not common:
        return None
    ours, theirs = (r.scores[[r.method.seeds.index(seed) for seed in common]] for r in (row, other))
    return ours, theirs
