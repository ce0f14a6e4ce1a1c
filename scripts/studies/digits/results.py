"""From single trainings to a table: means over seeds with 95 % intervals, on the screen, as CSV and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from scripts.analysis.intervals import half_width
from scripts.analysis.tables import table
from scripts.runs.tables import CsvTable

ALONE = "alone"  # in place of an aggregator: one network per task
BASELINE = "mean"
HEADINGS = {
    "left": "left %",
    "right": "right %",
    "gain": "vs mean",
    "tci_left": "TCI left",
    "tci_right": "TCI right",
    "gcd": "GCD",
    "conflicts": "conflicts %",
}
_CONFLICTS = "; conflicts: share of measured updates with one"
EXPLAINED = (
    "left, right: accuracy on test pairs. vs mean: accuracy over both tasks less that of `mean`, seed by seed. TCI: "
    "test error alone less test error trained jointly, in points; negative: joint training hurts. GCD: 1 - cosine of "
    f"the two tasks' gradients of the shared parameters, above 1 is conflict{_CONFLICTS}. "
    "±: 95 % t-interval over seeds, each by itself: of many, some miss by chance."
)
EXPLAINED_ON_SCREEN = EXPLAINED.replace(_CONFLICTS, "")  # that column is in the files only


@dataclass(frozen=True)
class Run:
    """One aggregator on one architecture with one seed; for `alone`, two networks with one task each."""

    architecture: str
    aggregator: str
    seed: int
    error_left: float
    error_right: float
    loss_left: float
    loss_right: float
    tci_left: float
    tci_right: float
    gcd: float
    conflicts: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and half the width of its interval; NaN where there is none."""

    mean: float
    half: float


@dataclass(frozen=True)
class Line:
    """What the runs of one aggregator on one architecture come to."""

    architecture: str
    aggregator: str
    seeds: int
    estimates: Mapping[str, Estimate]


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its 95 % t-interval; with fewer than two values there is no interval."""
    array = np.array(values)
    half = half_width(array)
    return Estimate(float(array.mean()), math.nan if half is None else half)


def summarise(runs: Sequence[Run]) -> list[Line]:
    """One line per architecture and aggregator, in the order of the runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.architecture, run.aggregator), []).append(run)
    lines = []
    for (architecture, aggregator), group in groups.items():
        columns = {
            "left": [100 * (1 - run.error_left) for run in group],
            "right": [100 * (1 - run.error_right) for run in group],
            "gain": _gains(group, groups.get((architecture, BASELINE), [])),
            "tci_left": [100 * run.tci_left for run in group],
            "tci_right": [100 * run.tci_right for run in group],
            "gcd": [run.gcd for run in group],
            "conflicts": [100 * run.conflicts for run in group],
        }
        estimates = {name: estimate(values) for name, values in columns.items()}
        lines.append(Line(architecture, aggregator, len(group), estimates))
    return lines


def _gains(group: Sequence[Run], baseline: Sequence[Run]) -> list[float]:
    """Accuracy over both tasks, less that of the baseline with the same seed; NaN without one and for itself."""
    if not baseline or group[0].aggregator == BASELINE:
        return [math.nan] * len(group)
    both = {run.seed: run.error_left + run.error_right for run in baseline}
    return [50 * (both[run.seed] - run.error_left - run.error_right) for run in group]


def cells(line: Line) -> list[str]:
    """The estimates of a line as text, `-` where there is none."""
    return [_text(line.estimates[name], 2 if name == "gcd" else 0 if name == "conflicts" else 1) for name in HEADINGS]


def _text(value: Estimate, digits: int) -> str:
    if math.isnan(value.mean):
        return "-"
    return f"{round(value.mean, digits) + 0.0:.{digits}f}" + (
        "" if math.isnan(value.half) else f"±{value.half:.{digits}f}"
    )


def tables(lines: Sequence[Line]) -> list[Table]:
    """For the screen: one table per architecture, within 80 columns."""
    found = []
    for architecture in dict.fromkeys(line.architecture for line in lines):
        grid = Table(title=architecture, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        grid.add_column("aggregator", overflow="fold")
        for heading in list(HEADINGS.values())[:-1]:
            grid.add_column(heading, justify="right", no_wrap=True)
        for line in lines:
            if line.architecture == architecture:
                grid.add_row(line.aggregator, *cells(line)[:-1])
        found.append(grid)
    return found


def write(folder: Path, runs: Sequence[Run], lines: Sequence[Line], facts: Mapping[str, str]) -> None:
    """`runs.csv`, `summary.csv` and `README.md` in the folder, which is there; old ones are replaced."""
    numbers = [
        {"architecture": line.architecture, "aggregator": line.aggregator, "seeds": line.seeds}
        | {f"{name}{end}": _short(part) for name, e in line.estimates.items() for end, part in _parts(e)}
        for line in lines
    ]
    for name, rows in (("runs", [_shortened(run) for run in runs]), ("summary", numbers)):
        path = folder / f"{name}.csv"
        path.unlink(missing_ok=True)
        CsvTable(path).append(rows)
    (folder / "README.md").write_text(markdown(lines, facts))


def markdown(lines: Sequence[Line], facts: Mapping[str, str]) -> str:
    """The tables with all that they depend on."""
    text = ["# Two overlaid digits, left and right as tasks", "", EXPLAINED, ""]
    text += [f"- {name}: {fact}" for name, fact in facts.items()]
    for architecture in dict.fromkeys(line.architecture for line in lines):
        rows = [[line.aggregator, *cells(line)] for line in lines if line.architecture == architecture]
        text += ["", f"## {architecture}", "", *table(["aggregator", *HEADINGS.values()], rows)]
    return "\n".join(text) + "\n"


def _parts(value: Estimate) -> list[tuple[str, float]]:
    return [("", value.mean), ("_half_width", value.half)]


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _shortened(run: Run) -> dict[str, object]:
    return {name: _short(value) if isinstance(value, float) else value for name, value in asdict(run).items()}
