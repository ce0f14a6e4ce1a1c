"""Search for good settings: trials of a preset, chosen and stopped early by Optuna.

    python -m scripts.tune toy --trials 20 --range learning-rate=log:1e-4:3e-3 --choice gamma=0.9,0.95,0.99
    python -m scripts.tune mt10-quick --range batch-size=log:16:128 --choice aggregator=mean,pcgrad --seed 1

Every trial is a run as scripts.train makes it. Its result is the success of its last evaluation, the mean over tasks;
one whose evaluations on the way are below the median of the others' is stopped. Run the same command again to
continue; with more --trials, to go on searching. At the end winner.toml holds the best settings:
python -m scripts.train winner.toml.

Exit codes: 0 all trials are over, 1 some are not, or none is complete, 128 + n stopped by signal n (130 by Ctrl-C).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from agents.saving.atomic import whole_file
from scripts.common import command
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_folder, choose, require_package
from scripts.runs.claim import claimed
from scripts.setup.config import TrainConfig
from scripts.setup.parse import parse_train
from scripts.setup.presets import find, to_toml
from scripts.setup.trust import code_of
from scripts.sweeps.execution import Stop, execute
from scripts.sweeps.launchers import LAUNCHERS
from scripts.sweeps.plan import Job, make_job, train_words
from scripts.sweeps.request import SweepConfig, check_numbers, joined
from scripts.sweeps.space import flags, read_space
from scripts.sweeps.study import Search, study_errors
from scripts.sweeps.trials import TrialsBoard, conclude


@dataclass(frozen=True)
class TuneConfig:
    """What to search, and for how long."""

    preset: Annotated[str, tyro.conf.Positional]
    """Preset of scripts.train, or a .toml file, that all trials begin from."""
    trials: int = 20
    """Trials in all, those of earlier calls among them."""
    range: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=LOW:HIGH or NAME=log:LOW:HIGH for a number, e.g. learning-rate=log:1e-4:3e-3; may be given several times."""
    choice: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=A,B,... for any setting, e.g. gamma=0.97,0.98,0.99; may be given several times."""
    seed: int = 0
    """Seed of every trial, and of the search."""
    out: Path | None = None
    """Folder of the study; by default runs/tune-PRESET."""
    flags: str = ""
    """Extra scripts.train flags for every trial, quoted."""
    launcher: str = "local"
    """Where the trials are executed, as in a sweep; local: side by side on this machine."""
    jobs: Literal["auto"] | int = "auto"
    """Trials side by side; auto: one per core, with one thread each. On a cluster a number is needed."""
    threads: Literal["auto"] | int = "auto"
    """Torch threads of each trial; auto: cores / trials side by side."""
    cpus: Literal["auto"] | int = "auto"
    """On a cluster, cores of each trial; auto: one for each thread and worker."""
    gpus: float = 0.0
    """On a cluster, GPUs of each trial, or a share of one."""
    options: Names = ()
    """Options of the launcher, KEY=VALUE,..., as in a sweep."""
    retries: int = 2
    """How often a trial goes on again after an accident, as in a sweep."""


def main(argv: Sequence[str]) -> int:
    """Search as `argv` says; return the exit code."""
    request = tyro.cli(TuneConfig, prog="python -m scripts.tune", args=joined(argv), description=__doc__)
    require_package("optuna", "tune")
    if request.trials < 1:
        raise UsageError(f"--trials: expected at least 1; found {request.trials}.")
    space = read_space(request.range, request.choice)
    extra = train_words("--flags", request.flags)
    out = check_folder("--out", str(request.out or Path("runs", f"tune-{find(request.preset).name}")))

    def make(number: int, values: Mapping[str, Any]) -> Job:
        return make_job(out, request.preset, f"{number:03}", [*extra, *flags(values)], request.seed)

    for dimension in space:
        for value in dimension.values:
            if code := code_of(make(0, {dimension.name: value}).config):
                raise UsageError(f"expected settings that a preset can hold, without code; found {code[0]!r}.")
    alike = ("launcher", "jobs", "threads", "cpus", "gpus", "options", "retries")
    sweep = SweepConfig((), out=out, **{name: getattr(request, name) for name in alike})
    check_numbers(sweep)
    launcher = LAUNCHERS[choose("launcher", request.launcher, LAUNCHERS)](sweep, request.trials)
    if launcher.remote and request.jobs == "auto":
        raise UsageError("--jobs: expected a number on a cluster; found auto. Say how many trials run side by side.")
    console = Screen()
    with claimed(out), study_errors(out / "study.db"):
        say = partial(console.print, soft_wrap=True)
        search = Search(out / "study.db", make(0, {}).config, space, request.trials, make, say)
        (out / "logs").mkdir(exist_ok=True)
        say(f"{request.trials} trials in {shlex.quote(str(out))}, {search.over} already over; {launcher}")
        console.print(*map(str, space), sep="\n")
        stop = Stop(search.say)
        with stop.listening(), TrialsBoard(search, stop, console) as board:
            execute(search.begin(), launcher, stop, board.update, request.retries)
        if search.over >= search.trials and (best := search.best):
            words = [request.preset, *extra, *flags(best.params), "--seed", str(request.seed)]
            summary = f"trial {best.number} of scripts.tune, success {best.value:.2f}"
            with whole_file(out / "winner.toml") as file:
                file.write(to_toml(cast(TrainConfig, parse_train(words)), summary).encode())
        return conclude(search, stop, console, out / "winner.toml")


if __name__ == "__main__":
    command.run(main, files=True)
