"""Pictures beside success: conflict, the tragic triad, temperatures, the distance to the goal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from envs import find_benchmark
from mtrl import diagnostics
from scripts.analysis.methods import Method
from scripts.analysis.style import STEPS_LABEL, literal, looks, over_steps, set_style
from scripts.analysis.success import COLUMNS, band, legend, task_panels
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import as_usage_error
from scripts.runs.tables import CsvTable

NETWORKS = ("critic", "actor")
WINDOWS = 4  # parts of training in the heat map
NAMED = 25  # more tasks have no room for their names
Row = dict[str, str]


# ------------------------------------------------------------------------------------------------------- conflicts
def conflicts(methods: Sequence[Method]) -> Figure:
    """How often two tasks' gradients conflict: the share of measured updates with a cosine below 0, by pair of tasks.

    In each quarter of training, over all seeds. The mean of the cosines would hide conflicts: in it they cancel. More
    than `NAMED` tasks have no room for their names: they stand in groups of difficulty.
    """
    set_style()
    protocol = methods[0].runs[0].protocol
    tasks, named = protocol.tasks, len(protocol.tasks) <= NAMED
    groups = find_benchmark(protocol.benchmark).grouped(tasks) if not named else {}
    order = [i for group in groups.values() for i in group] or list(range(len(tasks)))
    lines = [(method, network) for method in methods for network in NETWORKS]
    maps = [conflicts_over_time(method, network) for method, network in lines]
    side = max(1.7, 0.16 * len(tasks)) if named else 2.6
    figure, panels = plt.subplots(
        len(lines), WINDOWS, figsize=(2.2 + WINDOWS * side, 0.9 + len(lines) * (side + 0.35)), layout="constrained",
        squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    for row, (method, network), (edges, found) in zip(panels, lines, maps, strict=True):
        for axes, matrix, (start, end) in zip(row, found, itertools.pairwise(edges), strict=True):
            image = axes.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=0, vmax=1)  # white: as often as not
            pairs = matrix[np.triu_indices(len(tasks), 1)]
            share = "not measured" if np.isnan(pairs).all() else f"{np.mean(pairs):.0%} in conflict"
            axes.set_title(f"{_short(start)}-{_short(end)}:\n{share}", fontsize=8)  # two lines: one meets the next
            axes.set_facecolor("0.85")  # of the diagonal
            axes.grid(visible=False)
        row[0].set_ylabel(f"{literal(method.label)}\n{network}", fontweight="bold")
    ticks = (list(range(len(tasks))), list(tasks)) if named else _ticks(groups)
    small = {"fontsize": 4 if 12 < len(tasks) <= NAMED else 7}
    for axes in panels.flat:
        for edge in np.cumsum([len(group) for group in groups.values()])[:-1] - 0.5:
            axes.axhline(edge, color="black", linewidth=0.6)
            axes.axvline(edge, color="black", linewidth=0.6)
    for axes in panels[:, 0]:
        axes.set_yticks(*ticks, **small)
    for axes in panels[-1]:
        axes.set_xticks(*ticks, rotation=90, **small)
    label = "share of single updates in which the gradients of two tasks conflict (cosine below 0)"
    figure.colorbar(image, ax=panels, label=label, shrink=0.6, aspect=30)
    figure.suptitle(f"Conflict between tasks by {STEPS_LABEL}, in each quarter of training", fontsize=11)
    return figure


def conflicts_over_time(method: Method, network: str, windows: int = WINDOWS) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the edges of the windows in steps per task, and how often each pair conflicts in each of them.

    A share of the measurements, (T, T) with NaN on the diagonal.
    """
    tasks = method.runs[0].protocol.tasks
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    steps, values = [], []
    for run in method.runs:
        found = _rows(run, run.conflicts, "conflicts.csv")
        with as_usage_error(run.conflicts.path):
            rows = [row for row in found if row["network"] == network]
            steps += [run.step_of(row) for row in rows]
            values += [[float(row[f"{tasks[i]}|{tasks[j]}"]) < 0 for i, j in pairs] for row in rows]
    if not values or not pairs:
        raise UsageError(
            f"expected cosines of the {network}'s gradients in the runs of {method.label}; found none. They need two "
            "tasks, --log-conflicts above 0 and gradients that meet."
        )
    edges = np.linspace(0, max(steps), windows + 1)
    window = np.clip(np.digitize(steps, edges, right=True) - 1, 0, windows - 1)
    return edges, [_matrix(np.array(values)[window == k], pairs, len(tasks)) for k in range(windows)]


def _matrix(values: np.ndarray, pairs: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    matrix = np.full((size, size), np.nan)
    if len(values):
        rows, columns = zip(*pairs, strict=True)
        matrix[rows, columns] = matrix[columns, rows] = values.mean(0)
    return matrix


def _ticks(groups: dict[str, list[int]]) -> tuple[list[float], list[str]]:
    """Return the middle of each group of tasks that stand in a row, and its name with their number."""
    sizes = [len(group) for group in groups.values()]
    middles = np.cumsum(sizes) - np.array(sizes) / 2 - 0.5
    return middles.tolist(), [f"{name} ({size})" for name, size in zip(groups, sizes, strict=True)]


def _short(steps: float) -> str:
    return f"{steps / 1000:.3g}k" if steps >= 1000 else f"{steps:.0f}"


# ------------------------------------------------------------------------------------------- lines from metrics.csv
def triad(methods: Sequence[Method]) -> Figure:
    """Conflict, unequal lengths and curvature of the tasks' gradients over training (Yu et al. 2020, Section 2.3)."""
    set_style()
    tasks = methods[0].runs[0].protocol.tasks
    figure, panels = plt.subplots(3, 2, figsize=(9, 7), sharex=True, layout="constrained", squeeze=False)
    for column, network in zip(panels.T, NETWORKS, strict=True):
        norms = [f"train/{network}_norms/{task}" for task in tasks]
        _line(column[0], methods, [f"train/{network}_conflict_share"], lambda x: x[:, 0])
        _line(column[1], methods, norms, _similarity)
        _line(column[2], methods, [f"train/{network}_curvature"], lambda x: x[:, 0])
        column[0].set(title=network, ylim=(-0.04, 1.04))
        column[1].set(ylim=(-0.04, 1.04))
        column[2].set(xlabel=STEPS_LABEL)
        column[2].ticklabel_format(axis="y", scilimits=(-2, 3))
        column[2].axhline(0, color="0.4", linewidth=0.8)
    labels = (
        "share of pairs in conflict",
        "similarity of norms\n(mean over pairs, 1: equal)",
        "curvature along the step",
    )
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    over_steps(panels[0, 0])
    _legend_below(figure, panels[0, 0])
    figure.suptitle("The tragic triad over training: conflict, unequal norms, curvature", fontsize=11)
    return figure


def goal_distance(methods: Sequence[Method]) -> Figure:
    """Draw the distance to the goal at the end of an episode of evaluation, mean over the tasks that tell it."""
    set_style()
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    _lines(axes, methods, _distances, "evaluations.csv", lambda x: x, thin=False)
    axes.set(xlabel=STEPS_LABEL, ylabel="distance to the goal at the end of an episode")
    axes.set_ylim(bottom=0)
    over_steps(axes)
    axes.legend()
    figure.suptitle(
        f"{literal(methods[0].runs[0].protocol.benchmark)}: distance to the goal, mean over tasks", fontsize=11
    )
    return figure


def _distances(run: Run) -> dict[int, float]:
    """Step per task -> mean distance of the tasks that tell it."""
    rows = _rows(run, run.evaluations, "evaluations.csv")
    found: dict[int, list[float]] = {}
    with as_usage_error(run.evaluations.path):
        for row in rows:
            if row.get("goal_distance"):
                found.setdefault(run.step_of(row), []).append(float(row["goal_distance"]))
    if not found:
        raise UsageError(f"expected goal_distance in {run.evaluations.path}; found none: its environments tell none.")
    return {step: float(np.mean(values)) for step, values in found.items()}


def temperatures(methods: Sequence[Method]) -> Figure:
    """Draw the entropy temperature of every task over training, on a logarithmic scale."""
    set_style()
    tasks = methods[0].runs[0].protocol.tasks
    figure = plt.figure(figsize=(9, 1.4 + 1.6 * math.ceil(len(tasks) / COLUMNS)), layout="constrained")
    panels = task_panels(figure, tasks, STEPS_LABEL, "entropy temperature")
    for axes, task in zip(panels, tasks, strict=True):
        _line(axes, methods, [f"train/ent_coef/{task}"], lambda x: x[:, 0])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    over_steps(panels[0])
    _legend_below(figure, panels[0])
    figure.suptitle("Temperature of every task", fontsize=11)
    return figure


def _line(axes: Axes, methods: Sequence[Method], columns: list[str], value: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draw a line per method: `value` of its columns of metrics.csv, (rows, columns) -> (rows,), over the steps."""
    _lines(axes, methods, lambda run: _series(run, columns), "metrics.csv", value, thin=True)


def _lines(
    axes: Axes,
    methods: Sequence[Method],
    series_of: Callable[[Run], Mapping[int, Any]],
    table: str,
    value: Callable[[np.ndarray], np.ndarray],
    thin: bool,
) -> None:
    """Draw a line per method, over the steps that all its runs have.

    :param series_of: step per task -> what a run's table has there.
    :param value: of what stands at the steps, (rows, ...) -> (rows,).
    """
    for method, look in zip(methods, looks([m.aggregator for m in methods]), strict=True):
        series = [series_of(run) for run in method.runs]
        steps = sorted(set.intersection(*map(set, series)))
        if not steps:
            raise UsageError(f"expected rows of {table} at steps in common for {method.label}; found none.")
        values = np.array([value(np.array([found[step] for step in steps])) for found in series])
        band(axes, look, np.array(steps), values[:, None], legend(method), thin=thin)


def _series(run: Run, columns: list[str]) -> dict[int, list[float]]:
    """Step per task -> values of the columns, where all of them are filled."""
    rows = _rows(run, run.metrics, "metrics.csv")
    with as_usage_error(run.metrics.path):
        found = {
            run.step_of(row): [float(row[name]) for name in columns]
            for row in rows
            if all(row.get(name) for name in columns)
        }
    if not found:
        raise UsageError(f"expected the column {columns[0]} with numbers in {run.metrics.path}; found none to draw.")
    return found


def _similarity(norms: Float[np.ndarray, "rows tasks"]) -> Float[np.ndarray, " rows"]:
    """Mean magnitude similarity of all pairs of tasks, from the lengths of the gradients."""
    above = np.triu_indices(norms.shape[1], 1)
    squares = torch.as_tensor(norms).square()
    return np.array([diagnostics.magnitude_similarity(row.diag()).numpy()[above].mean() for row in squares])


def _rows(run: Run, table: CsvTable, name: str) -> list[Row]:
    with as_usage_error(table.path):
        rows = table.read()
        for row in rows:
            run.step_of(row)
    if not rows:
        raise UsageError(f"expected {name} in {run.path}; found none. This picture is drawn from it.")
    return rows


def _legend_below(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
