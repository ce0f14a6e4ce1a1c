"""How the pictures look: one fixed colour per method in all of them, the shared style, and where a picture goes."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from agents.saving.atomic import whole_file
from mtrl.aggregators import AGGREGATORS, WEIGHTINGS, WRAPPERS
from scripts.common.text import plain
from scripts.common.usage import UsageError, check_output

# By name, so that a new method moves no other's colour. Okabe and Ito's palette, told apart by all, then Tol's. One
# that is not here has a colour that follows from its name.
METHOD_COLORS = {
    **{"mean": "#0072B2", "pcgrad": "#D55E00", "pcgrad-direction": "#009E73", "pcgrad-magnitude": "#CC79A7"},
    **{"pcgrad-fixed": "#E69F00", "gradvac": "#56B4E9", "mocograd": "#000000", "cagrad": "#332288"},
    **{"mgda": "#882255", "imtl_g": "#117733", "nash_mtl": "#999933", "aligned_mtl": "#AA4499"},
    **{"gradnorm": "#661100", "famo": "#888888", "independent": "#8C6D31", "fairgrad": "#6699CC"},
    **{"upgrad": "#DDCC77", "config": "#44AA99", "graddrop": "#CC6677"},
    **{"conicgrad": "#1B9E77", "db_mtl": "#A6761D", "sdmgrad": "#7570B3", "modo": "#E7298A"},
}
FOREIGN = "0.5"
COLORS = tuple(METHOD_COLORS.values())
STYLES = ("-", "--", ":", "-.")
ENDINGS = (".png", ".pdf", ".svg")
plt.rcParams["pdf.fonttype"] = 42  # TrueType: many venues refuse the default, Type 3
STEPS_LABEL = "environment steps per task"


def color_of(method: str) -> str:
    """Return the colour of an aggregator, or of `independent`, in every picture; grey for one that is not ours.

    One behind a wrapper or a weighting, `smoothed:pcgrad`, or with options, `cagrad@c=0.2`, has that of the method.
    """
    before, _, base = method.rpartition(":")
    name = base.partition("@")[0]
    if before and not all(word in (*WRAPPERS, *WEIGHTINGS) for word in before.split(":")):
        return FOREIGN
    if name in METHOD_COLORS or name not in AGGREGATORS:
        return METHOD_COLORS.get(name, FOREIGN)
    return to_hex(hsv_to_rgb(crc32(name.encode()) / 2**32, 0.6, 0.7))


class Look(NamedTuple):
    """How the line of a method is drawn."""

    color: str
    dashes: str
    rim: float  # how much wider it is than the last: where several coincide, those below show on both sides


def looks(aggregators: Sequence[str]) -> list[Look]:
    """Return a look per method: those of one aggregator share its colour, and differ in their dashes."""
    colors = [color_of(name) for name in aggregators]
    dashes = [STYLES[colors[:i].count(color) % len(STYLES)] for i, color in enumerate(colors)]
    rims = np.linspace(min(4.0, len(colors) - 1.0), 0, len(colors))
    return list(map(Look, colors, dashes, rims.tolist()))


def set_style() -> None:
    """Small type, light grid, no box; draws without a screen."""
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.3, "axes.axisbelow": True, "legend.frameon": False})


def literal(text: str) -> str:
    """Return a name from a file as a label: what stands between two dollar signs is no formula."""
    return plain(text).replace("$", r"\$")


def over_steps(axes: Axes) -> None:
    """Let the horizontal axis begin at zero steps, and write steps as 20k and 1M."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def picture_path(out: Path) -> Path:
    """Where the picture goes: `out`, as .png if it has no ending.

    :raises UsageError: if it cannot go there.
    """
    found = "a folder" if out.is_dir() else "nothing before the ending" if out.name in ENDINGS else ""
    if out.suffix.lower() not in ("", *ENDINGS):
        found = found or f"the ending {out.suffix!r}"
    if found:
        raise UsageError(f"--out: expected a file that ends in {', '.join(ENDINGS)}; found {found}: {out}.")
    out = out if out.suffix else out.with_suffix(".png")
    check_output("--out", out)
    return out


def save(figure: Figure, *paths: Path) -> None:
    """Write the picture to each path, and say so."""
    for path in paths:
        write_figure(figure, path)
        print(f"wrote {path}")
    plt.close(figure)


def write_figure(figure: Figure, path: Path) -> None:
    """Write the picture, whole or not at all: an earlier one stays where the disk is full."""
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix[1:].lower())
