"""Compare methods over seeds: final and best success, intervals, differences to the mean; as Markdown and CSV.

    python -m scripts.compare runs
    python -m scripts.compare 'runs/mt10-quick-*' --out comparison.md

The runs must be finished and share one protocol. A run that broke down counts, with success 0. Numbers from the
literature stand in a table of their own, with what differs in their protocol.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from scripts.analysis import intervals
from scripts.analysis.intervals import Interval, Scores
from scripts.analysis.methods import Method, find_runs, group, hours_at, require_one_protocol
from scripts.analysis.published import published
from scripts.common import command
from scripts.common.text import in_csv, in_markdown
from scripts.common.usage import UsageError, check_output
from scripts.runs import Run
from scripts.runs.files import as_usage_error, read_json
from scripts.runs.protocol import Protocol

BASELINE = "mean"


@dataclass(frozen=True)
class CompareConfig:
    """Success of several methods over seeds, as Markdown on the screen and, with --out, as files."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, folders of runs, or patterns in quotes."""
    out: Path | None = None
    """Write the Markdown to this file, and the numbers beside it, as .csv."""
    at: int | None = None
    """Compare after so many steps per task instead of at the end: for runs of different lengths."""
    published: bool = True
    """Show the numbers from the literature for this benchmark."""


@dataclass(frozen=True)
class Row:
    """What the runs of one method come to."""

    method: Method
    scores: Scores  # success (seeds, tasks)
    best: np.ndarray  # (seeds,) highest mean over tasks of all evaluations
    hours: float | None  # median of the trainings' wall clock


def main(argv: Sequence[str]) -> int:
    """Compares what `argv` names; returns the exit code."""
    request = tyro.cli(CompareConfig, prog="python -m scripts.compare", args=argv, description=__doc__)
    if request.out:
        check_output("--out", request.out)
        if request.out.suffix == ".csv":
            raise UsageError(f"--out: expected the Markdown's name, e.g. {request.out.with_suffix('.md')}; found .csv.")
    runs = find_runs(request.runs)
    if request.at is None:
        require_finished(runs)
    advice = "Compare them apart" + ("." if request.at else "; runs of other lengths at one step, with --at STEPS.")
    require_one_protocol(runs, advice, equal_steps=request.at is None)
    rows = [summarise(method, request.at) for method in group(runs)]
    protocol = runs[0].protocol
    text = "\n".join(markdown(rows, protocol, request.at, request.published))
    print(text)
    if request.out:
        request.out.write_text(text + "\n")
        path = request.out.with_suffix(".csv")
        path.write_text(numbers(rows))
        print(f"wrote {request.out} and {path}")
    return 0


def require_finished(runs: Sequence[Run]) -> None:
    """Raises UsageError if a run is neither finished nor broken down."""
    if waiting := [str(run.path) for run in runs if run.status == "unfinished"]:
        raise UsageError(
            f"expected finished runs; {len(waiting)} of {len(runs)} are not: {', '.join(waiting)}. "
            "Go on with them (python -m scripts.train --resume RUN), leave them out, or compare with --at STEPS."
        )


def summarise(method: Method, at: int | None) -> Row:
    """The method's success at the end, or at a step. Raises UsageError if that step was not evaluated."""
    steps, curves = method.curves
    if at is not None and at not in steps:
        raise UsageError(
            f"--at: expected a step at which all runs of {method.label} were evaluated, one of "
            f"{', '.join(map(str, steps))}; found {at}."
        )
    upto = steps <= (steps[-1] if at is None else at)
    best = curves[:, :, upto].mean(1).max(1)
    return Row(method, curves[:, :, upto][:, :, -1], best, hours(method, at))


def hours(method: Method, at: int | None) -> float | None:
    """Median over the finished runs; at a step, over those that tell their times until then. None without any."""
    found = []
    for run in method.runs:
        if at is not None:
            with contextlib.suppress(UsageError):  # metrics.csv was not kept
                found.append(float(hours_at(run, np.array([at]), evaluations=True)[0]))
        elif run.status == "finished":
            with as_usage_error(run.path / "result.json"):
                found.append(sum(read_json(run.path / "result.json")["seconds"].values()) / 3600)
    return float(np.median(found)) if found else None


def markdown(rows: Sequence[Row], protocol: Protocol, at: int | None, literature: bool) -> Iterable[str]:
    """All tables."""
    after = at or protocol.env_steps_per_task
    over = f"mean over {len(protocol.tasks)} tasks" if len(protocol.tasks) > 1 else protocol.tasks[0]
    yield f"## {in_markdown(protocol.benchmark)}: success after {after:,} steps per task, {over}\n"
    yield explain(protocol, at) + "\n"
    yield from main_table(rows, at)
    yield ""
    yield from notes(rows)
    yield "\n### Per task, mean over seeds\n"
    names = [in_markdown(row.method.label) for row in rows]
    per_task = np.array([row.scores.mean(0) for row in rows]).T
    yield from table(
        ["task", *names],
        [[task, *(f"{x:.2f}" for x in line)] for task, line in zip(protocol.tasks, per_task, strict=True)],
    )
    if literature and (found := published(protocol.benchmark)):
        yield "\n### From the literature: other code, and another protocol where the last column says so\n"
        yield from table(
            ["method", "steps per task", "success", "statistic", "seeds", "source", "differs from ours in"],
            [
                [p.method, f"{p.steps:,}", f"{p.success:g}", f"{p.selection}, {p.statistic}", str(p.seeds or "?"),
                 f"[{p.source}]({p.url})", "; ".join(p.differences(protocol, after)) or "nothing that is stated"]
                for p in found
            ],
        )  # fmt: skip


def explain(protocol: Protocol, at: int | None) -> str:
    """The protocol in a paragraph."""
    episodes = protocol.episodes_during if at and at < protocol.env_steps_per_task else protocol.episodes_final
    horizon = str(protocol.horizon)
    if protocol.train_horizon != protocol.horizon:
        horizon += f" (in training {protocol.train_horizon})"
    reward = f"Reward {protocol.reward_version}, horizon" if protocol.reward_version else "Horizon"
    versions = {name: getattr(protocol, name) for name in ("metaworld", "mujoco", "gymnasium")}
    return (
        f"{reward} {horizon}, {protocol.goals_per_task} goals per task, "
        f"success {protocol.success}, deterministic policy, {episodes} episodes per task; "
        f"{', '.join(f'{name} {in_markdown(number)}' for name, number in versions.items() if number)}."
    )


def main_table(rows: Sequence[Row], at: int | None) -> Iterable[str]:
    """A line per method, the mean first."""
    baseline = baseline_of(rows)
    headings = ["method", "seeds", "failed", "final success" if at is None else f"success at {at:,}", "IQM"]
    headings.append("best (optimistic)")
    if baseline:
        headings += ["minus mean, paired", "P(beats mean)"]
    lines = []
    for row in rows:
        scores = row.scores
        line = [
            in_markdown(row.method.label),
            str(len(scores)),
            str(len(row.method.failed)),
            f"**{intervals.mean(scores):.3f}** {spelled(intervals.mean_interval(scores))}".strip(),
            f"{intervals.iqm(scores):.3f} {spelled(intervals.iqm_interval(scores))}".strip(),
            f"{row.best.mean():.3f}",
        ]
        if baseline:
            line += ["", ""] if row is baseline else against(row, baseline)
        lines.append([*line, "?" if row.hours is None else f"{row.hours:.2f}"])
    yield from table([*headings, "hours"], lines)


def baseline_of(rows: Sequence[Row]) -> Row | None:
    """The plain mean; None without one, and where several settings of it leave open which is meant."""
    configs = [(row, row.method.runs[0].config) for row in rows if row.method.aggregator == BASELINE]
    plain = [row for row, config in configs if not config.multi_head and not config.critic_aggregator]
    return plain[0] if len(plain) == 1 else None


def against(row: Row, baseline: Row) -> list[str]:
    """Difference over the seeds that both have, and the probability of improvement over all."""
    difference = paired(row, baseline)
    probability = intervals.improvement(row.scores, baseline.scores)
    interval = intervals.improvement_interval(row.scores, baseline.scores)
    if difference is None:
        return ["no seed in common", f"{probability:.2f} {spelled(interval, 2)}".strip()]
    (centre, half), seeds = difference
    words = f"{centre:+.3f} {spelled(half)}".strip() + f", {seeds} {'pair' if seeds == 1 else 'pairs'}"
    return [words, f"{probability:.2f} {spelled(interval, 2)}".strip()]


def paired(row: Row, baseline: Row) -> tuple[tuple[float, Interval | None], int] | None:
    """`intervals.paired_difference` over the seeds that both have, and how many these are; None without any."""
    common = [seed for seed in row.method.seeds if seed in baseline.method.seeds]
    if not common:
        return None
    ours, theirs = (r.scores[[r.method.seeds.index(seed) for seed in common]] for r in (row, baseline))
    return intervals.paired_difference(ours, theirs), len(common)


def notes(rows: Sequence[Row]) -> Iterable[str]:
    """What the numbers mean, and what they cannot say."""
    yield (
        "Brackets: 95 % intervals over seeds. Success and IQM: stratified bootstrap as in rliable, each task's seeds "
        "redrawn by themselves. Paired: Student's t over the seeds' differences. P: probability that a seed beats one "
        "of the mean on a task, ties half. Best: the highest evaluation on the way, chosen after the fact. Hours: "
        "wall clock, median, on whatever else the machine did."
    )
    if len(rows) > 1 and baseline_of(rows) is None:
        yield "\nNot exactly one plain mean is among the methods, so there are no differences to it."
    if single := [in_markdown(row.method.label) for row in rows if len(row.scores) == 1]:
        yield f"\n**A single seed, so no interval and no verdict: {', '.join(single)}.**"
    if few := [len(row.scores) for row in rows if 1 < len(row.scores) < 5]:
        yield f"\n**Only {min(few)} seeds: bootstrap intervals over so few are too narrow.** See docs/comparing.md."
    for row in rows:
        if row.method.failed:
            seeds = ", ".join(map(str, row.method.failed))
            yield f"\n{in_markdown(row.method.label)}: training broke down with seed {seeds}; counted with success 0."


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterable[str]:
    """A Markdown table."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def numbers(rows: Sequence[Row]) -> str:
    """CSV: a line per method, seed and task, from which every table can be made again."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "seed", "failed", "task", "success", "best_mean_success"])
    for row in rows:
        for run, scores, best in zip(row.method.runs, row.scores, row.best, strict=True):
            seed, failed = run.config.seed, int(run.status == "failed")
            for task, score in zip(run.protocol.tasks, scores, strict=True):
                writer.writerow([in_csv(row.method.label), seed, failed, in_csv(task), f"{score:.6g}", f"{best:.6g}"])
    return file.getvalue()


def spelled(interval: Interval | None, digits: int = 3) -> str:
    """As [0.10, 0.20]; nothing for None."""
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""


if __name__ == "__main__":
    command.run(main)
