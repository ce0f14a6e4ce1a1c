"""Draw success over environment steps: the mean over tasks, and every task by name.

python -m scripts.plot runs/mt10-quick-pcgrad-seed0 runs/mt10-quick-mean-seed0 --out success.png
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import matplotlib.pyplot as plt
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mtrl import AGGREGATORS
from scripts import cli
from scripts.run_folder import RunFolder

# Okabe and Ito's palette, told apart by all, then Tol's muted one; an aggregator keeps its colour in every picture.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#332288", "#882255", "#117733", "#999933", "#AA4499", "#661100", "#888888"),
)
STYLES = ("-", "--", ":", "-.")
ENDINGS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class PlotConfig:
    """Success over environment steps of one run or several, as one picture."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs; several are drawn over each other, one colour per aggregator."""
    out: Path | None = None
    """A .png, .pdf or .svg; by default success.png in the folder of the (only) run, or here."""


def main(argv: Sequence[str]) -> int:
    """Draws as `argv` says; returns the exit code."""
    request = tyro.cli(PlotConfig, prog="python -m scripts.plot", args=argv)
    if not request.runs:
        raise cli.UsageError("expected at least one run folder, found none. Write: python -m scripts.plot RUN...")
    runs = [RunFolder.open(path) for path in request.runs]
    for run in runs[1:]:
        if conflicts := runs[0].protocol.conflicts(run.protocol):
            raise cli.UsageError(
                f"expected runs of one protocol; {runs[0].path} and {run.path} differ in {', '.join(conflicts)}. "
                "Draw them apart."
            )
    out = picture_path(request.out or (runs[0].path if len(runs) == 1 else Path()) / "success.png")
    draw(runs).savefig(out, dpi=150)
    print(f"wrote {out}")
    return 0


def picture_path(out: Path) -> Path:
    """Where the picture goes: `out`, as .png if it has no ending. Raises UsageError if it cannot go there."""
    if out.is_dir() or out.suffix not in ("", *ENDINGS):
        found = "a folder" if out.is_dir() else f"the ending {out.suffix!r}"
        raise cli.UsageError(f"--out: expected a file that ends in {', '.join(ENDINGS)}; found {found}: {out}.")
    out = out if out.suffix else out.with_suffix(".png")
    cli.check_output("--out", out)
    return out


def draw(runs: Sequence[RunFolder]) -> Figure:
    """The mean over tasks on top, a small panel per task below."""
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.3, "axes.axisbelow": True})
    tasks = runs[0].protocol.tasks
    columns = min(5, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = plt.figure(figsize=(9, 3.6 + 1.3 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3.6, 1.3 * rows), squeeze=False)[:, 0]
    mean = top.subplots()
    panels = list(bottom.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for run, (color, style) in zip(runs, looks(runs), strict=True):
        steps, curves = run.success_curves()
        label = f"{run.config.aggregator}, seed {run.config.seed}"
        mean.plot(steps, sum(curves.values()) / len(tasks), color=color, linestyle=style, marker=".", label=label)
        for panel, task in zip(panels, tasks, strict=False):
            panel.plot(steps, curves[task], color=color, linestyle=style, linewidth=1.2, marker=".", markersize=3)
    ids = sorted({run.protocol.id for run in runs})
    suffix = f"protocol {ids[0]}" if len(ids) == 1 else f"protocols {', '.join(ids)}: see each run's protocol.json"
    top.suptitle(f"{runs[0].protocol.benchmark}: success, mean over {len(tasks)} tasks ({suffix})", fontsize=11)
    _axes(mean)
    mean.set(xlabel="environment steps per task", ylabel="share of episodes with success")
    mean.legend(frameon=False, loc="upper left")
    for panel, task in zip(panels, tasks, strict=False):
        _axes(panel)
        panel.set_title(task, fontsize=8)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    return figure


def looks(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """A colour per aggregator, in the order of AGGREGATORS, and, among runs of one colour, a line style each."""
    colors = [color_of(run.config.aggregator) for run in runs]
    return [(color, STYLES[colors[:i].count(color) % len(STYLES)]) for i, color in enumerate(colors)]


def color_of(aggregator: str) -> str:
    """The aggregator's colour in every picture; grey for one that is not ours."""
    return dict(zip(AGGREGATORS, COLORS, strict=False)).get(aggregator, "0.5")


def _axes(axes: Axes) -> None:
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


if __name__ == "__main__":
    cli.run(main)
