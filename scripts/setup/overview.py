"""What `scripts.train` tells of presets and aggregators: all of them, or in what two presets differ."""

from __future__ import annotations

import re
from typing import Any

from rich import box
from rich.table import Table

from mtrl import AGGREGATORS, WEIGHTINGS
from mtrl.aggregators import WRAPPERS
from scripts.common.screen import Screen, strong
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS

PROGRAM = "python -m scripts.train"


def print_difference(config: TrainConfig, other: TrainConfig) -> None:
    """Every setting in which two configs differ, options of aggregators included; a dash where one has no such."""
    ours, theirs = by_flag(config), by_flag(other)
    table = Table("", config.preset, other.preset, box=box.SIMPLE_HEAD)
    for flag in dict.fromkeys([*ours, *theirs]):
        if flag != "--preset" and (mine := ours.get(flag, "")) != (its := theirs.get(flag, "")):
            table.add_row(flag, shown(mine), shown(its))
    Screen().print(table if table.rows else f"no difference to {other.preset}")


def by_flag(config: TrainConfig) -> dict[str, Any]:
    """All settings by flag; options of an aggregator one by one, as --aggregator.NAME."""
    found: dict[str, Any] = {}
    for name, value in config.to_json().items():
        flag = f"--{name.removesuffix('_options').replace('_', '-')}"
        options = value if isinstance(value, dict) else {"": value}
        found |= {f"{flag}.{key.replace('_', '-')}".rstrip("."): item for key, item in options.items()}
    return found


def shown(value: Any) -> str:
    """Return a setting as a flag has it; a dash for nothing."""
    return (",".join(map(str, value)) if isinstance(value, list) else str(value)) or "-"


def print_overview() -> None:
    """Usage, presets and aggregators, one line each."""
    console = Screen()
    console.print(f"Train one agent on many tasks.\n\n  {PROGRAM} PRESET [--aggregator NAME] [--steps-per-task N] ...")
    console.print(f"  {PROGRAM} PRESET --help\n  {PROGRAM} PRESET [flags] --diff OTHER-PRESET")
    console.print(f"  {PROGRAM} PRESET [flags] --print-preset > mine.toml, then {PROGRAM} mine.toml")
    console.print(f"  {PROGRAM} PRESET [flags] --go-on   begins the run, resumes it, or says that it is finished")
    console.print(f"  {PROGRAM} --resume RUN [--steps-per-task N]\n")
    listings = {
        "Presets": {name: preset.summary for name, preset in PRESETS.items()},
        "Aggregators": {name: first_line(kind) for name, kind in AGGREGATORS.items()},
        "Weightings of the losses, for --critic-aggregator or before another: NAME:pcgrad": {
            name: first_line(kind) for name, kind in WEIGHTINGS.items()
        },
    }
    for title, rows in listings.items():
        table = Table.grid(padding=(0, 2), pad_edge=True)
        table.add_column(style="cyan", overflow="fold")
        for name, summary in rows.items():
            table.add_row(f"  {name}", summary)
        console.print(strong(title), table, "", sep="\n")
    console.print("Also torchjd:NAME for TorchJD's aggregators, and path/to/file.py:NAME for one of your own.")
    console.print(f"Around one that sees inner products: {', '.join(f'{wrapper}:NAME' for wrapper in WRAPPERS)}.\n")


def first_line(kind: type) -> str:
    """Return the claim that opens a docstring, up to its colon or full stop."""
    return re.split(r"[:.]\s", (kind.__doc__ or "").strip())[0]
