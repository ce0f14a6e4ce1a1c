"""Write one HTML file about runs, to look at in a browser and to send to others: it needs no network.

    python -m scripts.report runs/mt10-quick-pcgrad-seed0
    python -m scripts.report runs/paper --out paper.html

Success over steps or hours, of all tasks or one; conflicts, temperatures and gradients over training; tables, settings,
numbers from the literature, and films that lie in the run folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agents.saving.atomic import whole_file
from scripts.analysis.methods import find_runs, group, require_one_protocol
from scripts.analysis.page.page import default_title, out_path, page, require_packages
from scripts.common import command
from scripts.common.usage import check_output
from scripts.runs.files import check_not_of_a_run


@dataclass(frozen=True)
class ReportConfig:
    """Write a page about one or several runs; needs pip install -c constraints.txt -e '.[report]'."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, folders of runs, or patterns in quotes; finished or not."""
    out: Path = Path("report.html")
    """The .html file."""
    title: str = ""
    """Its heading; empty: the name of the run, or of the benchmark."""


def main(argv: Sequence[str]) -> int:
    """Write the page that `argv` asks for; return the exit code."""
    request = tyro.cli(ReportConfig, prog="python -m scripts.report", args=argv, description=__doc__)
    require_packages()
    out = out_path(request.out)
    check_output("--out", out)
    check_not_of_a_run("--out", out)
    runs = find_runs(request.runs, evaluated=True)
    require_one_protocol(runs, "Report them apart.")
    text = page(group(runs), request.title or default_title(runs)).encode()
    with whole_file(out) as file:
        file.write(text)
    print(f"wrote {out}, {len(text) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    command.run(main, files=True)
