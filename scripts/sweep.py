"""Train many runs with one command: arms x seeds x presets, side by side on this machine, or on a cluster.

    python -m scripts.sweep toy --arms mean,pcgrad --seeds 0,1,2
    python -m scripts.sweep mt10-quick --arms paper --seeds 0,1,2 --out runs/paper --flags "--steps-per-task 20000"
    python -m scripts.sweep sweep.toml
    python -m scripts.sweep mt10 --seeds 0,1,2 --launcher ray --gpus 0.5

An arm is an aggregator, or a name for a few flags of scripts.train (listed by --help). Run the same command again to
continue: finished runs are skipped, stopped ones resumed, new ones started. In a TOML
file the flags are keys, and a table `define` names arms of your own:

    presets = ["mt10-quick"]
    arms = ["mean", "pcgrad", "slow"]
    seeds = [0, 1, 2]
    define.slow = "--aggregator pcgrad --learning-rate 1e-4"

A cluster: --launcher ray or slurm; see docs/clusters.md.

Exit codes: 0 all runs are finished, 1 some are not, 128 + n stopped by signal n (130 by Ctrl-C); a run that failed does
not stop the others.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from scripts.common import command
from scripts.common.command import EXIT_INCOMPLETE
from scripts.common.screen import Screen
from scripts.common.usage import check_folder, choose, make_folder, step_limit
from scripts.setup.presets import from_file
from scripts.sweeps.board import Board
from scripts.sweeps.execution import Stop, execute
from scripts.sweeps.launchers import LAUNCHERS
from scripts.sweeps.plan import make_jobs, plan
from scripts.sweeps.request import check_numbers, parse


def main(argv: Sequence[str]) -> int:
    """Run what `argv` names; return the exit code."""
    with from_file(*argv[:1]):
        request = parse(argv, description=__doc__)
        request = replace(request, out=check_folder("--out", str(request.out)))
        plans = [plan(job) for job in make_jobs(request)]
        check_numbers(request)
        left = [p.job for p in plans if p.is_open]
        launcher = LAUNCHERS[choose("launcher", request.launcher, LAUNCHERS)](request, len(left))
    if request.dry_run:
        for p in plans:
            line = shlex.join(["python", "-m", "scripts.train", *launcher.command(p.job).words])
            print(line if p.is_open else f"# {p.job.name} is {p.action}")
        return 0
    if left:
        make_folder("--out", request.out / "logs")
    console = Screen()
    over = Counter(p.action for p in plans if not p.is_open)
    console.print(
        f"{len(plans)} runs in {shlex.quote(str(request.out))}, {over['finished']} already finished"
        f"{', {} failed before'.format(over['failed']) if over['failed'] else ''}; "
        f"{launcher}",
        soft_wrap=True,
    )
    if trials := sum(p.job.config.trial for p in plans):
        console.print(f"STEPS={step_limit()} is set: {trials} trials, no results. The same command replaces them.")
    with Board(plans, console, launcher.remote) as board:
        stop = Stop(board.say)
        with stop.listening():
            execute(left, launcher, stop, board.update, request.retries)
            complete = board.conclude()
    if stop.signal:
        console.print("Stopped. The same command goes on with it.")
        return 128 + stop.signal
    return 0 if complete else EXIT_INCOMPLETE


if __name__ == "__main__":
    command.run(main, files=True)
