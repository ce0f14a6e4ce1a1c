"""Check this machine for a preset: versions, memory, disk, rendering, and that every task gets gradients.

python -m scripts.doctor                 the preset mt10-quick
python -m scripts.doctor mt50
python -m scripts.doctor mt1 --tasks reach-v3

Each finding says what to do. Exit code 0: no errors (there may be warnings); 1: something is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from scripts.common import command
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, usage_errors
from scripts.runs.checkup import examine
from scripts.setup.config import check
from scripts.setup.presets import find

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


@dataclass(frozen=True)
class DoctorConfig:
    """Check software, machine and tasks, and make a short training."""

    preset: Annotated[str, tyro.conf.Positional] = "mt10-quick"
    """Preset to check for."""
    tasks: Names = ()
    """Task names, as in scripts.train."""
    steps: int = 200
    """Steps per task of the short training."""
    run_dir: Path = Path("runs")
    """Folder for runs, whose disk is checked."""


def main(argv: Sequence[str]) -> int:
    """Examine what `argv` says; return the exit code."""
    request = tyro.cli(DoctorConfig, prog="python -m scripts.doctor", args=argv)
    preset = find(request.preset).config
    config = replace(preset, tasks=request.tasks or preset.tasks)
    if request.steps < 50:
        raise UsageError(f"--steps: expected at least 50, to reach some updates; found {request.steps}.")
    with usage_errors():
        check(config)
    console, levels = Screen(), []
    for finding in examine(config, request.steps, request.run_dir, console):
        mark, about = (f"{finding.level:>7}", _STYLES[finding.level]), (finding.about, "bold")
        console.print(Text.assemble(mark, " ", about, f": {finding.what}"), soft_wrap=True)
        levels.append(finding.level)
    wrong, warned = levels.count("wrong"), levels.count("warning")
    console.print(f"\n{len(levels)} things looked at: {wrong} wrong, {warned} warnings.")
    return 1 if wrong else 0


if __name__ == "__main__":
    command.run(main)
