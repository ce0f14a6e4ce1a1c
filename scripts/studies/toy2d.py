"""Figure 1 of the PCGrad paper: two losses of two parameters, and the path of Adam under each aggregator.

    python -m scripts.toy2d                                            mean and pcgrad, 300,000 updates: minutes
    python -m scripts.toy2d --aggregators mean,imtl_g,gradvac --out toy2d.pdf
    python -m scripts.toy2d --aggregators mean,cagrad --steps 20000    a slow method, or a small machine

Both losses are deep, curved valleys that meet at the optimum; along each valley the other loss pulls across it. See Yu
et al. 2020, Figure 1 and Appendix D. The mean bounces between the walls; PCGrad arrives, but not before update 100,000.

On the right are the contours of each loss, and where it falls at the end of each path, with its slope.

Gradients are closed forms in float64. Methods that solve a problem at each update (cagrad, mgda, nash_mtl) take hours;
a bar shows how long.

The sum of the losses jumps by tens from one update to the next, and rounding decides where it stands at the last one:
over starts 1e-12 apart it was between -48 and -142 for the mean, between -219 and -401 for PCGrad. So the table also
gives, as `middle`, the median over the last 1 % of the updates: between -61 and -78, and between -251 and -271.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from mtrl import AGGREGATORS, GramianAggregator, LossAggregator
from scripts.analysis.style import ENDINGS, STYLES, color_of, write_figure
from scripts.common import methods
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_output, step_limit

START = (0.5, -3.0)
FLOOR = 5e-6  # the losses are flat below: log 0 has no value
KEPT = 500_000  # points of a path that are kept, at most
DRAWN = 20_000  # and drawn
OUTSIDE = "#EE3377"  # the colour of aggregators that are not ours

Row = tuple[float, float]
Method = Callable[[Row, Row, float, float], Row]
"""Gradients of both losses and the point -> the update."""


@dataclass(frozen=True)
class ToyConfig:
    """Two losses of two parameters: the path of Adam under each aggregator, as a figure and a table."""

    aggregators: Names = ("mean", "pcgrad")
    """Any of mtrl.AGGREGATORS, torchjd:NAME or path/to/file.py:NAME; with options as cagrad@c=0.2."""
    steps: int = 300_000
    """Number of updates; PCGrad needs more than 100,000."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    reduction: Literal["mean", "sum"] = "mean"
    """Scale of the update; the paper sums. Adam is invariant to it, up to rounding."""
    seed: int = 0
    """Random seed of the aggregators that draw."""
    out: Path = Path("toy2d.png")
    """The figure: a .png, .pdf or .svg file."""


class Path2d(NamedTuple):
    """Where one aggregator went."""

    points: Float[np.ndarray, "points 2"]
    """From the start to the end, evenly spaced in updates."""
    seconds: float


def main(argv: Sequence[str]) -> int:
    """Walk, draw and print the table; return the exit code."""
    config = tyro.cli(ToyConfig, prog="python -m scripts.toy2d", args=argv, description=__doc__)
    check(config)
    torch.set_num_threads(1)
    limit = step_limit()
    steps, console = min(config.steps, limit or config.steps), Screen()
    if steps < config.steps:
        console.print(f"STEPS={limit} is set: a trial of {steps} steps in place of {config.steps:,}.")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TextColumn("eta"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        paths = {name: _walk_with_bar(name, config, steps, bar) for name in config.aggregators}
    console.print(table(paths, steps))
    write_figure(draw(paths, steps), config.out)
    console.print(f"wrote {config.out}", soft_wrap=True)
    return 0


def check(config: ToyConfig) -> None:
    """Raise UsageError for what cannot be walked or drawn."""
    if config.steps < 1:
        raise UsageError(f"--steps: expected at least 1, found {config.steps}.")
    if not 0 < config.learning_rate < math.inf:
        raise UsageError(f"--learning-rate: expected a finite number above 0, found {config.learning_rate}.")
    methods.check_aggregators(config.aggregators, options=True)
    check_output("--out", config.out)
    if config.out.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out: expected a file that ends in {', '.join(ENDINGS)}; found {config.out}.")


# -------------------------------------------------------------------------------------------------------- the objective
def losses(t1: Float[np.ndarray, " *n"], t2: Float[np.ndarray, " *n"]) -> Float[np.ndarray, "tasks ..."]:
    """Both losses at a point, or at many."""
    first, second = 0.5 * t1 + np.tanh(t2), 0.5 * t1 - np.tanh(t2) + 2
    sizes = np.maximum(np.abs(np.stack([first, second])), FLOOR)
    scales: np.ndarray = np.array([20.0, 25.0]).reshape(2, *[1] * (sizes.ndim - 1))
    return scales * np.log(sizes)


def gradients(t1: float, t2: float) -> tuple[Row, Row]:
    """Return the gradients of both losses; zero on the flat floor."""
    bend = math.tanh(t2)
    slope = 1 - bend * bend
    first, second = 0.5 * t1 + bend, 0.5 * t1 - bend + 2
    a = 20 / first if abs(first) > FLOOR else 0.0
    b = 25 / second if abs(second) > FLOOR else 0.0
    return (0.5 * a, slope * a), (0.5 * b, -slope * b)


# ---------------------------------------------------------------------------------------------------------- the methods
def method(name: str, reduction: str, seed: int) -> Method:
    """Build the aggregator, for two gradients of two numbers; it sees the losses after a step when asked for the next.

    One that needs only losses or inner products is asked for its weights: its arithmetic without that of large models.
    """
    aggregator = methods.build(name, reduction=reduction, seed=seed)
    aggregator.reset(2, 2)
    forward, begun = type(aggregator).forward, False

    @torch.no_grad()
    def update(g: Row, h: Row, t1: float, t2: float) -> Row:
        nonlocal begun
        values = torch.from_numpy(losses(np.asarray(t1), np.asarray(t2)))
        if begun:
            aggregator.after_step(values)
        begun = True
        if isinstance(aggregator, GramianAggregator) and forward is GramianAggregator.forward:
            a, b = aggregator.weights(gramian(g, h), values).tolist()
        elif isinstance(aggregator, LossAggregator) and forward is LossAggregator.forward:
            a, b = aggregator.weights(values).tolist()
        else:
            x, y = aggregator(torch.tensor([g, h], dtype=torch.float64), values).tolist()
            return x, y
        return a * g[0] + b * h[0], a * g[1] + b * h[1]

    return update


def gramian(g: Row, h: Row) -> Float[Tensor, "2 2"]:
    """Inner products of two gradients."""
    product = g[0] * h[0] + g[1] * h[1]
    rows = [[g[0] * g[0] + g[1] * g[1], product], [product, h[0] * h[0] + h[1] * h[1]]]
    return torch.tensor(rows, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- the walk
def walk(
    aggregator: Method, steps: int, learning_rate: float, advance: Callable[[int], None] = lambda step: None
) -> Float[np.ndarray, "points 2"]:
    """Adam from the start, in float64; returns the start and every so many points, the last one among them.

    :param advance: called with the number of updates done, about a thousand times.
    """
    stride, report_every = -(-steps // KEPT), max(1, steps // 1000)
    (x, y), points = START, [START]
    m_x = m_y = v_x = v_y = 0.0
    decay_1 = decay_2 = 1.0
    for step in range(1, steps + 1):
        d_x, d_y = aggregator(*gradients(x, y), x, y)
        m_x, m_y = 0.9 * m_x + 0.1 * d_x, 0.9 * m_y + 0.1 * d_y
        v_x, v_y = 0.999 * v_x + 0.001 * d_x * d_x, 0.999 * v_y + 0.001 * d_y * d_y
        decay_1, decay_2 = 0.9 * decay_1, 0.999 * decay_2
        rate, unbias = learning_rate / (1 - decay_1), math.sqrt(1 - decay_2)
        x -= rate * m_x / (math.sqrt(v_x) / unbias + 1e-8)
        y -= rate * m_y / (math.sqrt(v_y) / unbias + 1e-8)
        if step % stride == 0 or step == steps:
            points.append((x, y))
        if step % report_every == 0:
            advance(step)
    return np.array(points)


def _walk_with_bar(name: str, config: ToyConfig, steps: int, bar: Progress) -> Path2d:
    row = bar.add_task(name, total=steps)
    start = time.perf_counter()
    aggregator = method(name, config.reduction, config.seed)
    points = walk(aggregator, steps, config.learning_rate, lambda step: bar.update(row, completed=step))
    bar.update(row, completed=steps)
    return Path2d(points, time.perf_counter() - start)


# -------------------------------------------------------------------------------------------------------- what is shown
def table(paths: dict[str, Path2d], steps: int) -> Table:
    """Where each path ends, and how deep."""
    fifth = max(1, steps // 5)
    result = Table("aggregator", title=f"Losses after {steps:,} updates (middle: median of the last 1 %)")
    for column in ("L1", "L2", "sum", "middle", f"at {fifth:,}", "ends at", "time"):
        result.add_column(column, justify="right", no_wrap=True)
    for name, path in paths.items():
        t1, t2 = path.points[-1]
        values = losses(*path.points.T)
        sums = values.sum(0)
        numbers = [*values[:, -1], sums[-1], late_median(sums), late_median(sums[: -(-len(sums) // 5)])]
        result.add_row(name, *(f"{number:.0f}" for number in numbers), f"{t1:.2f}, {t2:.2f}", f"{path.seconds:.0f} s")
    return result


def late_median(values: Float[np.ndarray, " points"]) -> float:
    """Median over the last hundredth."""
    return float(np.median(values[-max(1, len(values) // 100) :]))


def draw(paths: dict[str, Path2d], steps: int) -> Figure:
    """Draw the sum of the losses with the paths over it, and beside it each loss, and where it falls at the ends."""
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9})
    figure, panels = plt.subplot_mosaic("SSA;SSB", figsize=(11, 6), layout="constrained")
    points = np.concatenate([path.points for path in paths.values()])
    names = (r"\mathcal{L}_1 + \mathcal{L}_2", r"\mathcal{L}_1", r"\mathcal{L}_2")
    for number, (axes, name) in enumerate(zip(panels.values(), names, strict=True)):
        _contours(figure, axes, points, number, f"${name}$")
        axes.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    whole, *single = panels.values()
    for place, (name, path) in enumerate(paths.items()):
        color, style = look(name, list(paths))
        over = 1 - place / len(paths)  # what is drawn later is thinner, so that paths on one line are all seen
        some = path.points[:: max(1, len(path.points) // DRAWN)]
        whole.plot(*some.T, color=color, linestyle=style, linewidth=1.2 + 1.2 * over, label=name)
        for axes in panels.values():
            axes.plot(*path.points[-1], "o", color=color, markeredgecolor="white", markersize=7 + 5 * over, zorder=4)
        for axes, gradient in zip(single, gradients(*path.points[-1].tolist()), strict=True):
            _descent(axes, path.points[-1], np.array(gradient), color)
    whole.plot(
        *START, "*", color="black", markeredgecolor="white", markersize=17, linestyle="", label="start", zorder=5
    )
    whole.plot([], [], "o", color="grey", markeredgecolor="white", markersize=9, label=f"end, {steps:,} updates")
    whole.set_title("Two losses of two parameters: paths of Adam")
    single[0].set_title("each loss, and where it falls at the ends", fontsize=9)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def _descent(axes: Axes, point: Float[np.ndarray, 2], gradient: Float[np.ndarray, 2], color: str) -> None:
    """Draw the direction in which the loss falls, a fifth of the panel long, and its slope."""
    length = float(np.linalg.norm(gradient))
    if not 0 < length < math.inf:
        return
    reach = min(np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())) / 5 / length
    x, y = (point - reach * gradient).tolist()
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x, y), tuple(point.tolist()), arrowprops=arrow, zorder=5, annotation_clip=False)
    side = "left" if x < np.mean(axes.get_xlim()) else "right"
    rounded = f"{float(f'{length:.2g}'):,g}"
    axes.annotate(rounded, (x, y), (0, 4), textcoords="offset points", color=color, fontsize=8, ha=side)


def look(name: str, drawn: Sequence[str]) -> tuple[str, str]:
    """Colour and line: ours have a colour each, the same in every picture, those from outside a line each."""
    if name in AGGREGATORS:
        return color_of(name), "-"
    return OUTSIDE, STYLES[[other for other in drawn if other not in AGGREGATORS].index(name) % len(STYLES)]


def _contours(figure: Figure, axes: Axes, points: Float[np.ndarray, "points 2"], number: int, label: str) -> None:
    """Draw loss 1 or 2, or for 0 their sum."""
    around = [START, (-3.0, -4.0), (3.0, 7.0)]  # both valleys and, high up, where they meet
    corners = np.vstack([points[np.isfinite(points).all(1)], around])
    sides = zip(corners.min(0) - 0.2, corners.max(0) + 0.2, strict=True)
    t1, t2 = (np.linspace(low, high, 600) for low, high in sides)
    both = losses(*np.meshgrid(t1, t2))
    values = both[number - 1] if number else both.sum(0)
    # the valleys' beds are too narrow to be told apart
    levels = np.linspace(np.percentile(values, 1), values.max(), 20)
    filled = axes.contourf(t1, t2, values, levels=levels, cmap="Greys_r", extend="min", alpha=0.7)
    axes.contour(t1, t2, values, levels=levels, colors="black", linewidths=0.3, linestyles="solid", alpha=0.5)
    figure.colorbar(filled, ax=axes, label=label, shrink=0.8, format="%.0f")
