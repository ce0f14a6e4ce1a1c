"""Compare methods over seeds: final and best success, intervals, differences to the mean; as Markdown and CSV.

    python -m scripts.compare runs
    python -m scripts.compare 'runs/mt10-quick-*' --out comparison.md

The runs must be finished and share one protocol. A run that failed counts with success 0. Numbers from the
literature have a separate table, with the differences in protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agents.saving.atomic import whole_file
from scripts.analysis.comparison import require_finished, summarise
from scripts.analysis.methods import find_runs, group, require_one_protocol
from scripts.analysis.tables import markdown, numbers
from scripts.common import command
from scripts.common.usage import UsageError, check_output
from scripts.runs.files import check_not_of_a_run


@dataclass(frozen=True)
class CompareConfig:
    """Success of several methods over seeds, as Markdown on the screen and, with --out, in files."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, folders of runs, or patterns in quotes."""
    out: Path | None = None
    """Write the Markdown to this file, and the numbers as .csv beside it."""
    at: int | None = None
    """Compare at this step (per task) instead of at the end: for runs of different lengths."""
    published: bool = True
    """Show the numbers from the literature for this benchmark."""


def main(argv: Sequence[str]) -> int:
    """Compare what `argv` names; return the exit code."""
    request = tyro.cli(CompareConfig, prog="python -m scripts.compare", args=argv, description=__doc__)
    if request.out:
        check_output("--out", request.out)
        if request.out.suffix.lower() == ".csv":
            raise UsageError(f"--out: expected the Markdown's name, e.g. {request.out.with_suffix('.md')}; found .csv.")
        check_not_of_a_run("--out", request.out)
        check_not_of_a_run("--out", request.out.with_suffix(".csv"))
    runs = find_runs(request.runs)
    if request.at is None:
        require_finished(runs)
    advice = "Compare them apart" + ("." if request.at else "; runs of other lengths at one step, with --at STEPS.")
    require_one_protocol(runs, advice, equal_steps=request.at is None)
    rows = [summarise(method, request.at) for method in group(runs)]
    protocol = runs[0].protocol
    text = "\n".join(markdown(rows, protocol, request.at, request.published))
    print(text)
    if request.out:
        path = request.out.with_suffix(".csv")
        for name, content in ((request.out, text + "\n"), (path, numbers(rows))):
            with whole_file(name) as file:
                file.write(content.encode())
        print(f"wrote {request.out} and {path}")
    return 0


if __name__ == "__main__":
    command.run(main)
