"""Make a small folder of a finished run to give away: its actor, protocol, success table and a card.

python -m scripts.share runs/mt10-quick-pcgrad-seed0 --to mt10-quick-pcgrad
python -m scripts.share runs/mt10-quick-pcgrad-seed0 --to hub:me/mt10-quick-pcgrad
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scripts.common import command
from scripts.runs import Run, hub
from scripts.runs.sharing import share


@dataclass(frozen=True)
class ShareConfig:
    """Write the trained actor of a run, without critics, optimizers and buffer, into a folder that opens as a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the finished run."""
    to: Path
    """The new folder; or hub:USER/NAME, a repository of the Hugging Face Hub, which is made if it is not there."""


def main(argv: Sequence[str]) -> int:
    """Share as `argv` says; return the exit code."""
    request = tyro.cli(ShareConfig, prog="python -m scripts.share", args=argv)
    if name := hub.repository(request.to):
        hub.require_token(name)
        with tempfile.TemporaryDirectory() as folder:
            path = share(Run(request.run).verified(), Path(folder) / name.rpartition("/")[2])
            print(f"wrote {hub.push(path, name)}; python -m scripts.evaluate {request.to} opens it")
        return 0
    path = share(Run(request.run).verified(), request.to)
    print(f"wrote {path}, {sum(file.stat().st_size for file in path.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    command.run(main, files=True)
