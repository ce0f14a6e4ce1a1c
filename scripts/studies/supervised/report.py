"""The numbers on the screen, as Markdown and as CSV, and the curves as one picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.saving.atomic import whole_file
from scripts.analysis.style import literal, looks, set_style
from scripts.analysis.tables import table
from scripts.common.screen import FittedTable
from scripts.runs.tables import CsvTable
from scripts.studies.supervised.contracts import Task
from scripts.studies.supervised.results import ALONE, Estimate, Line, Run, records

HEADINGS = {
    "delta_m": "delta_m %",
    "vs mean": "vs mean",
    "gcd": "GCD",
    "conflicts": "conflicts %",
    "backward_ms": "backward ms",
    "memory_mb": "memory MB",
}
FIRST = 3  # of these come before the tasks on the screen, where there may not be room for all
EXPLAINED = (
    "delta_m: what joint training gained over `alone`, a network per task, on the test rows: mean over tasks of the "
    "mean over metrics of the relative change, in per cent, positive is better. vs mean: delta_m less that of `mean`, "
    "seed by seed. GCD: 1 - cosine of two tasks' gradients of the shared parameters, above 1 is conflict, mean over "
    "pairs and training; conflicts: share of pairs with one. backward: processor time of an update, aggregation "
    "included; memory: of the tensors that it makes, at most at once (`alone`: the largest network). ±: 95 % "
    "t-interval over seeds, each by itself: of many, some miss by chance."
)
TCI = "TCI: what joint training gained over `alone`, in the metric's unit; negative: it hurts the task."
DRAWN = 6  # tasks in the picture, at most


def screen_tables(lines: Sequence[Line], tasks: Sequence[Task]) -> Iterator[FittedTable]:
    """Yield a table per architecture, with as many tasks as there is room for."""
    for architecture in _architectures(lines):
        names, headings = [task.name for task in tasks], [*HEADINGS.values()]
        grid = FittedTable("aggregator", *headings[:FIRST], *names, *headings[FIRST:], title=architecture)
        for line in lines:
            if line.architecture == architecture:
                whole = _whole(line)
                grid.add_row(line.aggregator, *whole[:FIRST], *map(_text, line.metrics), *whole[FIRST:])
        yield grid


def write(
    folder: Path,
    title: str,
    runs: Sequence[Run],
    lines: Sequence[Line],
    tasks: Sequence[Task],
    facts: Mapping[str, str],
) -> None:
    """Put four tables, README.md and curves.png into a folder; old ones are replaced."""
    names = ("runs", "tasks", "curves", "summary")
    for name, rows in zip(names, (*records(runs, tasks), [*_summary(lines, tasks)]), strict=True):
        path = folder / f"{name}.csv"
        path.unlink(missing_ok=True)
        CsvTable(path).append([{key: _cell(value) for key, value in row.items()} for row in rows])
    figure = draw(runs, tasks)
    with whole_file(folder / "curves.png") as file:
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
    with whole_file(folder / "README.md") as file:
        file.write("\n".join(markdown(title, lines, tasks, facts)).encode() + b"\n")


def markdown(title: str, lines: Sequence[Line], tasks: Sequence[Task], facts: Mapping[str, str]) -> Iterator[str]:
    """Yield the tables, with all that they depend on."""
    yield from (f"# {title}", "", EXPLAINED, "", *(f"- {name}: {fact}" for name, fact in facts.items()))
    for architecture in _architectures(lines):
        own = [line for line in lines if line.architecture == architecture]
        yield from ("", f"## {architecture}", "")
        yield from table(["aggregator", *HEADINGS.values()], [[line.aggregator, *_whole(line)] for line in own])
        for line in own:
            if not math.isnan((found := line.whole["correlation"]).mean) and line.aggregator == "mean":
                yield f"\nRank correlation of TCI and GCD over tasks, under the mean: {_text(found)}."
        yield from ("", "Each task's own metric:", "")
        yield from _per_task(own, tasks, [line.metrics for line in own])
        yield from ("", TCI, "")
        yield from _per_task(own[1:], tasks, [line.tci for line in own[1:]])
    yield from ("", "![Losses of the tasks over training](curves.png)")


def draw(runs: Sequence[Run], tasks: Sequence[Task]) -> Figure:
    """Return each task's loss per epoch: on test rows as a line, in training dotted; means over seeds."""
    set_style()
    architectures, shown = _architectures(runs), min(len(tasks), DRAWN)
    size = (2.6 * shown + 0.6, 2.2 * len(architectures) + 0.6)
    figure, grid = plt.subplots(len(architectures), shown, figsize=size, squeeze=False, layout="constrained")
    for architecture, row in zip(architectures, grid, strict=True):
        for number, axes in enumerate(row):
            _curves(axes, [run for run in runs if run.architecture == architecture], number)
            axes.set_title(literal(f"{architecture}: {tasks[number].name}"), fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    grid[0, 0].set_ylabel("loss (dotted: training)")
    side_by_side = max(1, int(size[0] // 1.9))  # inches that a long name takes
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=side_by_side)
    return figure


def _curves(axes: Axes, runs: Sequence[Run], task: int) -> None:
    names = list(dict.fromkeys(run.aggregator for run in runs))
    for name, look in zip(names, looks(["independent" if name == ALONE else name for name in names]), strict=True):
        curves = [run.outcome.curves for run in runs if run.aggregator == name]
        test, training = (
            np.mean([[take(point) for point in curve] for curve in curves], axis=0)
            for take in (lambda point: point[1].losses[task], lambda point: point[0][task])
        )
        epochs, marker = range(1, len(test) + 1), "." if len(test) == 1 else ""
        axes.plot(
            epochs, test, look.dashes, color=look.color, linewidth=1.5 + look.rim, label=literal(name), marker=marker
        )
        axes.plot(epochs, training, ":", color=look.color, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _per_task(lines: Sequence[Line], tasks: Sequence[Task], columns: Sequence[Sequence[Estimate]]) -> Iterable[str]:
    rows = [
        [_headed(task), *map(_text, values)] for task, values in zip(tasks, zip(*columns, strict=True), strict=True)
    ]
    return table(["task", *(line.aggregator for line in lines)], rows)


def _headed(task: Task) -> str:
    return f"{task.name} ({task.metrics[0].name})"


def _architectures(lines: Sequence[Line] | Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(line.architecture for line in lines))


def _whole(line: Line) -> list[str]:
    digits = {"gcd": 2, "conflicts": 0}
    return [_rounded(line.whole[name], digits.get(name, 1)) for name in HEADINGS]


def _rounded(value: Estimate, digits: int) -> str:
    if math.isnan(value.mean):
        return "-"
    half = "" if math.isnan(value.half) else f"±{value.half:.{digits}f}"
    return f"{round(value.mean, digits) + 0.0:.{digits}f}{half}"


def _text(value: Estimate) -> str:
    """With three places of the larger of both."""
    size = max(abs(value.mean), 0 if math.isnan(value.half) else value.half)
    return _rounded(value, 3 if not size or math.isnan(size) else min(6, max(0, 2 - math.floor(math.log10(size)))))


def _summary(lines: Sequence[Line], tasks: Sequence[Task]) -> Iterator[dict[str, object]]:
    for line in lines:
        found = [("", name, estimate) for name, estimate in line.whole.items()]
        for task, metric, tci in zip(tasks, line.metrics, line.tci, strict=True):
            found += [(task.name, task.metrics[0].name, metric), (task.name, "tci", tci)]
        for name, quantity, estimate in found:
            key = {"architecture": line.architecture, "aggregator": line.aggregator, "seeds": line.seeds}
            yield key | {"task": name, "quantity": quantity, "mean": estimate.mean, "half_width": estimate.half}


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
