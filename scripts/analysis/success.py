"""Pictures of success: the mean over tasks on top, a small panel per task below."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from scripts.analysis import intervals
from scripts.analysis.literature import Literature
from scripts.analysis.methods import Method, hours_at
from scripts.analysis.style import STEPS_LABEL, Look, literal, looks, over_steps, set_style

RESAMPLES = 1000  # of a shaded interval: its edge is thinner than what more would change
COLUMNS = 5  # panels in a row


def over_environment_steps(methods: Sequence[Method], literature: Literature | None = None) -> Figure:
    """Success over environment steps per task.

    :param literature: published curves, drawn beside the mean over tasks.
    """
    figure, panels = _draw(methods, [method.curves[0] for method in methods], STEPS_LABEL, literature)
    for panel in panels:
        over_steps(panel)
    return figure


def over_wall_clock(methods: Sequence[Method]) -> Figure:
    """Success over hours of training, mean over the seeds that did not break down; without the time for evaluations."""
    hours = [np.mean([hours_at(run, method.curves[0]) for run in method.timed], axis=0) for method in methods]
    figure, panels = _draw(methods, hours, "hours of training, evaluations left out")
    for panel in panels:
        panel.set_xlim(left=0)
    return figure


def _draw(
    methods: Sequence[Method], xs: Sequence[np.ndarray], label: str, literature: Literature | None = None
) -> tuple[Figure, list[Axes]]:
    set_style()
    protocol = methods[0].runs[0].protocol
    tasks = protocol.tasks if len(protocol.tasks) > 1 else ()  # a panel of a single task would be the same again
    heights = [3.8, 1.3 * math.ceil(len(tasks) / COLUMNS)][: 1 + bool(tasks)]
    heights += [literature.height] if literature else []
    figure = plt.figure(figsize=(9, sum(heights)), layout="constrained")
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if literature:
        literature.write(below.pop())
    mean = top.subplots()
    if literature:
        literature.draw(mean)
    panels = [panel for part in below for panel in task_panels(part, tasks, label, "success")]
    for method, look, x in zip(methods, looks([m.aggregator for m in methods]), xs, strict=True):
        curves = method.curves[1]
        band(mean, look, x, curves, legend(method))
        for i, panel in enumerate(panels):
            panel.set_ylim(-0.04, 1.04)
            band(panel, look, x, curves[:, i : i + 1], thin=True)
    shading = (
        "; thin: seeds; shaded: 95 % bootstrap over them" if any(len(method.runs) > 1 for method in methods) else ""
    )
    what = f"success, mean over {len(tasks)} tasks" if tasks else f"success on {protocol.tasks[0]}"
    top.suptitle(f"{literal(protocol.benchmark)}: {what}{shading}", fontsize=11)
    mean.set(xlabel=label, ylabel="share of episodes with success", ylim=(-0.04, 1.04))
    if len(methods) < 5:
        mean.legend(loc="best")
    else:
        mean.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure, [mean, *panels]


def task_panels(part: FigureBase, tasks: Sequence[str], xlabel: str, ylabel: str) -> list[Axes]:
    """Lay out a small panel per task."""
    columns = min(COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    panels = list(part.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    part.supxlabel(xlabel, fontsize=9)
    part.supylabel(ylabel, fontsize=9)
    for panel, task in zip(panels, tasks, strict=False):
        panel.set_title(task, fontsize=8)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    return panels[: len(tasks)]


def legend(method: Method) -> str:
    """`pcgrad, 3 seeds`, and how many of them broke down."""
    seeds = method.seeds
    words = f"{literal(method.label)}, {f'seed {seeds[0]}' if len(seeds) == 1 else f'{len(seeds)} seeds'}"
    return f"{words}, {len(method.failed)} broke down" if method.failed else words


def band(
    axes: Axes,
    look: Look,
    x: np.ndarray,
    values: Float[np.ndarray, "seeds tasks points"],
    label: str = "",
    thin: bool = False,
) -> None:
    """Draw the mean over seeds and tasks as a line, its interval as a band and each seed as a thin line.

    A single seed is the line itself and has no band.

    Where a task did not report its success there is no point.
    """
    known = ~np.isnan(values).any((0, 1))
    x, values = x[known], values[..., known]
    width, marker = (1.2, 3) if thin else (1.6, 5)
    (line,) = axes.plot(x, values.mean((0, 1)), color=look.color, linestyle=look.dashes, linewidth=width + look.rim)
    line.set(label=label or None, marker="." if len(x) < 50 else "", markersize=marker + 2 * look.rim)
    if len(values) > 1 and len(x):
        edges = np.array([intervals.mean_interval(point, RESAMPLES) for point in np.moveaxis(values, -1, 0)])
        axes.fill_between(x, edges[:, 0], edges[:, 1], color=look.color, alpha=0.15, linewidth=0)
        axes.plot(x, values.mean(1).T, color=look.color, linestyle=look.dashes, linewidth=width / 3, alpha=0.5)
