"""Plot what runs have logged: success over steps or wall clock, conflict, the tragic triad, temperatures.

    python -m scripts.plot runs --out success.png
    python -m scripts.plot runs/mt10-quick-pcgrad-seed0 runs/mt10-quick-mean-seed0 --out success.png
    python -m scripts.plot 'runs/mt10-quick-*' --kind conflicts --out conflicts.png --pdf

Runs that differ only in their seed are one line, with a 95 % interval over seeds; a method has the same colour in every
figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from matplotlib.figure import Figure

from scripts.analysis import success as plot_success
from scripts.analysis import training as plot_training
from scripts.analysis.literature import Literature
from scripts.analysis.methods import Method, find_runs, group, relabelled, require_one_protocol
from scripts.analysis.published import require_within_reach
from scripts.analysis.style import picture_path, save
from scripts.common import command
from scripts.common.usage import UsageError
from scripts.runs.folder import TRAINED

KINDS: dict[str, Callable[[Sequence[Method]], Figure]] = {
    "success": plot_success.over_environment_steps,
    "wall-clock": plot_success.over_wall_clock,
    "conflicts": plot_training.conflicts,
    "triad": plot_training.triad,
    "temperatures": plot_training.temperatures,
    "distance": plot_training.goal_distance,
}


@dataclass(frozen=True)
class PlotConfig:
    """Plot one or several runs in one figure."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, folders of runs, or patterns in quotes; finished or not."""
    kind: Literal["success", "wall-clock", "conflicts", "triad", "temperatures", "distance"] = "success"
    """success: over environment steps, the mean and every task; wall-clock: the same over hours of training;
    conflicts: cosines of task gradients; triad: conflict, norms, curvature; temperatures: of every task;
    distance: to the goal, where tasks tell it."""
    out: Path | None = None
    """A .png, .pdf or .svg file; by default KIND.png, in the run's folder if there is only one, else in this folder,
    as for the trained agents that come with the package."""
    labels: tuple[str, ...] = ()
    """Own names in place of the figure's, e.g. --labels mean=baseline "pcgrad, gamma=0.99=ours"."""
    published: bool = False
    """Draw the success rates of papers beside one's own, as far as the steps go; --kind success on MT10 and MT50."""
    pdf: bool = False
    """Also write a .pdf."""


def main(argv: Sequence[str]) -> int:
    """Draw as `argv` says; return the exit code."""
    request = tyro.cli(PlotConfig, prog="python -m scripts.plot", args=argv, description=__doc__)
    runs = find_runs(request.runs, evaluated=request.kind in ("success", "wall-clock", "distance"))
    require_one_protocol(runs, "Draw them apart.")
    of_the_user = runs[0].path.parent != TRAINED and not request.runs[0].startswith("hub:")  # no cache of the hub's
    default = (runs[0].path if len(runs) == 1 and of_the_user else Path()) / f"{request.kind}.png"
    out = picture_path(request.out or default)
    methods = relabelled(group(runs), request.labels)
    figure = _beside_published(methods, request.kind) if request.published else KINDS[request.kind](methods)
    save(figure, *dict.fromkeys([out, out.with_suffix(".pdf")] if request.pdf else [out]))
    return 0


def _beside_published(methods: Sequence[Method], kind: str) -> Figure:
    if kind != "success":
        raise UsageError(
            f"--published: expected --kind success, which papers report; found {kind}. Leave one of the two out."
        )
    protocol = methods[0].runs[0].protocol
    steps = int(max(method.curves[0][-1] for method in methods))
    numbers = require_within_reach(protocol.benchmark, steps)
    return plot_success.over_environment_steps(methods, Literature(numbers, protocol))


if __name__ == "__main__":
    command.run(main, files=True)
