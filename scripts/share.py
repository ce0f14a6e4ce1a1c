"""Make a small folder of a finished run to give away: its actor, protocol, success table and a card.

python -m scripts.share runs/mt10-quick-pcgrad-seed0 --to mt10-quick-pcgrad
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scripts.common import command
from scripts.runs import Run
from scripts.runs.sharing import share


@dataclass(frozen=True)
class ShareConfig:
    """Write the trained actor of a run, without critics, optimizers and buffer, into a folder that opens as a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the finished run."""
    to: Path
    """The new folder."""


def main(argv: Sequence[str]) -> int:
    """Share as `argv` says; return the exit code."""
    request = tyro.cli(ShareConfig, prog="python -m scripts.share", args=argv)
    path = share(Run(request.run).verified(), request.to)
    print(f"wrote {path}, {sum(file.stat().st_size for file in path.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    command.run(main, files=True)
