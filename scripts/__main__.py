"""`mtrl-surgery NAME ...` and `python -m scripts NAME ...`: what `python -m scripts.NAME ...` does.

The first is installed with the package, and works in any folder, whatever that holds.
"""

from __future__ import annotations

import pkgutil
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import command
from scripts.common.usage import choose

_ROOMS = {"analysis", "common", "runs", "setup", "studies", "sweeps"}


def commands() -> list[str]:
    """Return the names of all commands."""
    found = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return sorted(found - _ROOMS - {"__main__", "picture"})


def main() -> None:
    """Run the command that the first word names."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mtrl-surgery COMMAND ...\n\nCommands, each with its own --help:", *commands(), sep="\n  ")
        return
    if name not in commands():
        command.run(_refuse)
    sys.argv = [f"scripts.{name}", *words]
    runpy.run_module(f"scripts.{name}", run_name="__main__", alter_sys=True)


def _refuse(words: Sequence[str]) -> int:
    choose("command", words[0], commands())
    return 0


if __name__ == "__main__":
    main()
