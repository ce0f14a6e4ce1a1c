"""Record the policy of a run: one mp4 or gif with all tasks side by side, or one per task; a green frame marks success.

python -m scripts.record runs/mt10-quick-pcgrad-seed0
python -m scripts.record runs/mt10-quick-pcgrad-seed0 --each --tasks reach-v3,push-v3

Rendering runs in a separate process, with EGL or, failing that, OSMesa, and a timeout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from envs import find_benchmark
from scripts.common import command
from scripts.common.flags import Names
from scripts.common.usage import UsageError, check_output, choose, usage_errors
from scripts.runs import Run
from scripts.runs.folder import TRAINED
from scripts.runs.rendering import back_end_for, film, require_encoder
from scripts.runs.weights import agent_file
from scripts.setup.trust import require_trust, suite_code


@dataclass(frozen=True)
class RecordConfig:
    """Record one episode of each task of a run, with the deterministic policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or the name of a trained agent of this package, such as mt10-quick-pcgrad."""
    out: Path | None = None
    """The .mp4 or .gif, or with --each the folder of the .mp4s; by default an .mp4 in the folder of the run."""
    each: bool = False
    """One file per task instead of one grid."""
    tasks: Names = ()
    """Tasks to record; empty: all of the run."""
    goal: int = 0
    """Index of the goal; for tasks without goals, of the start state."""
    best: bool = False
    """Use the agent of the best evaluation during training, not the newest one."""
    size: int = 240
    """Width and height of a task's picture in pixels; a multiple of 16."""
    every: int = 2
    """Environment steps per frame; at 40 frames per second, 2 is real time in Meta-World."""
    steps: int | None = None
    """Environment steps to record; by default the horizon."""
    timeout: float = 1800.0
    """Seconds after which rendering is given up."""
    run_code: bool = False
    """Run the function that makes the run's environments; only if you trust it."""


def main(argv: Sequence[str]) -> int:
    """Record as `argv` says; return the exit code."""
    request = tyro.cli(RecordConfig, prog="python -m scripts.record", args=argv)
    run = Run(request.run).verified()
    tasks = check(request, run)
    elsewhere = run.path.parent == TRAINED or run.path != request.run  # the package's own folder, or a cache
    home = Path(run.path.name) if elsewhere else run.path
    out = request.out or home / ("videos" if request.each else "video.mp4")
    if out.parent == home != run.path:
        home.mkdir(exist_ok=True)
    check_output("--out", out / "x.mp4" if request.each and out.is_dir() else out)
    agent_file(run.path, request.best)
    order: dict[str, object] = {
        "run": str(run.path.resolve()),
        "best": request.best,
        "out": str(out.resolve()),
        "tasks": tasks,
    }
    order |= {"each": request.each, "goal": request.goal, "size": request.size, "every": request.every}
    order["steps"] = min(request.steps or run.config.horizon, run.config.horizon)
    film(order, back_end_for(run), request.timeout)
    print(f"wrote {out}")
    return 0


def check(request: RecordConfig, run: Run) -> list[str]:
    """Return the tasks to film.

    :raises UsageError: for what cannot be filmed.
    """
    if find_benchmark(run.config.suite).camera == "none":
        raise UsageError(f"expected a run whose tasks render; those of {run.config.suite} have nothing to see.")
    require_trust(suite_code(run.config), request.run_code, "filming")
    tasks = [choose("task", name, run.protocol.tasks) for name in request.tasks] or list(run.protocol.tasks)
    if not 0 <= request.goal < run.config.goals:
        raise UsageError(f"--goal: expected 0 to {run.config.goals - 1}; found {request.goal}.")
    if (
        request.size < 16
        or request.size % 16
        or min(request.every, 1 if request.steps is None else request.steps) < 1
        or not request.timeout > 0
    ):
        raise UsageError("expected --size a multiple of 16, --every and --steps at least 1 and --timeout above 0.")
    if not request.each and request.out and request.out.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--out: expected a file that ends in .mp4 or .gif; found {request.out}.")
    with usage_errors():
        require_encoder()
    return tasks


if __name__ == "__main__":
    command.run(main, files=True)
