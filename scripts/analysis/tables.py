"""A comparison as Markdown to read and as CSV to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from envs import find_benchmark
from scripts.analysis import intervals
from scripts.analysis.comparison import ALONE, Row, baseline_of, episodes_at, of_common_seeds, paired
from scripts.analysis.intervals import Interval
from scripts.analysis.published import published
from scripts.common.text import counted, in_csv, in_markdown
from scripts.runs.protocol import Protocol


def markdown(rows: Sequence[Row], protocol: Protocol, at: int | None, literature: bool) -> Iterable[str]:
    """All tables."""
    after = at or protocol.env_steps_per_task
    over = f"mean over {len(protocol.tasks)} tasks" if len(protocol.tasks) > 1 else protocol.tasks[0]
    yield f"## {in_markdown(protocol.benchmark)}: success after {after:,} steps per task, {over}\n"
    yield explain(protocol, {episodes_at(run, after) for row in rows for run in row.method.runs}) + "\n"
    worst = worst_count(len(protocol.tasks))
    yield from main_table(rows, at, worst)
    yield ""
    yield from notes(rows, worst)
    yield "\n### Per task, mean over seeds\n"
    names = [in_markdown(row.method.label) for row in rows]
    per_task = np.array([row.scores.mean(0) for row in rows]).T
    groups = find_benchmark(protocol.benchmark).grouped(protocol.tasks)
    lines = [(task, line) for task, line in zip(protocol.tasks, per_task, strict=True)]
    lines += [(f"**{name}** ({counted(len(own), 'task')})", per_task[own].mean(0)) for name, own in groups.items()]
    yield from table(["task", *names], [[name, *(f"{x:.2f}" for x in line)] for name, line in lines])
    if gains := conflicts(rows):
        yield "\n### TCI per task: success together less success of the task alone\n"
        yield from table(
            ["task", *gains], [[t, *cells] for t, *cells in zip(protocol.tasks, *gains.values(), strict=True)]
        )
        yield "\nNegative: joint training hurts the task. Over the seeds that both have; ±: 95 % t-interval."
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


def explain(protocol: Protocol, episodes: Collection[int]) -> str:
    """Return the protocol in a paragraph.

    :param episodes: per task, of the runs' evaluations.
    """
    most = counted(max(episodes), "episode")
    played = most if len(episodes) == 1 else f"{min(episodes)} to {most}"  # where one run was extended, say
    horizon = str(protocol.horizon)
    if protocol.train_horizon != protocol.horizon:
        horizon += f" (in training {protocol.train_horizon})"
    reward = f"Reward {protocol.reward_version}, horizon" if protocol.reward_version else "Horizon"
    return (
        f"{reward} {horizon}, {counted(protocol.goals_per_task, 'goal')} per task, "
        f"success {protocol.success}, deterministic policy, {played} per task; "
        f"{in_markdown(protocol.versions)}."
    )


def worst_count(tasks: int) -> int:
    """How many tasks count as the worst: 3 of 10, 10 of 50."""
    return min(10, max(1, 3 * tasks // 10))


def main_table(rows: Sequence[Row], at: int | None, worst: int) -> Iterable[str]:
    """Yield a line per method, the mean first.

    :param worst: how many tasks count as the worst.
    """
    baseline = baseline_of(rows)
    headings = ["method", "seeds", "failed", "final success" if at is None else f"success at {at:,}", "IQM"]
    headings += [f"worst {worst}", "best (optimistic)"]
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
            f"{intervals.worst(scores, worst):.3f}",
            f"{row.best.mean():.3f}",
        ]
        if baseline:
            line += ["", ""] if row is baseline else against(row, baseline)
        lines.append([*line, "?" if row.hours is None else f"{row.hours:.2f}"])
    yield from table([*headings, "hours"], lines)


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


def conflicts(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return each method's task conflict intensity per task, where one arm trained every task alone; else nothing."""
    alone = [row for row in rows if row.method.aggregator == ALONE]
    if len(alone) != 1:
        return {}
    found = {}
    for row in rows:
        if row is not alone[0] and (pairs := of_common_seeds(row, alone[0])):
            gains = (pairs[0] - pairs[1]).T
            halves = [intervals.half_width(gain) for gain in gains]
            found[in_markdown(row.method.label)] = [
                f"{gain.mean():+.2f}" + ("" if half is None else f" ±{half:.2f}")
                for gain, half in zip(gains, halves, strict=True)
            ]
    return found


def notes(rows: Sequence[Row], worst: int) -> Iterable[str]:
    """Yield what the numbers mean, and what they cannot say."""
    yield (
        "Brackets: 95 % intervals over seeds. Success and IQM: stratified bootstrap as in rliable, each task's seeds "
        "redrawn by themselves. Paired: Student's t over the seeds' differences. P: probability that a seed beats one "
        "of the mean on a task, ties half. "
        f"Worst {worst}: mean of each seed's {worst} lowest. Best: the highest evaluation on the way, chosen after the "
        "fact. Hours: wall clock, median, on whatever else the machine did."
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
    """Yield a Markdown table."""
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
