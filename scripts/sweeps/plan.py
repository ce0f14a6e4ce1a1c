"""What a sweep is to do: its arms, its runs, and how far each of them is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from scripts.common.usage import UsageError, choose, given
from scripts.runs.claim import claimed
from scripts.runs.going_on import Action, next_action
from scripts.runs.loggers import check_loggers
from scripts.setup import parse
from scripts.setup.config import TrainConfig
from scripts.setup.presets import find
from scripts.sweeps.request import ARMS, GROUPS, SweepConfig

_INSTEAD = {  # flags of scripts.train that the sweep gives itself -> what to use in their place
    "--seed": "--seeds of the sweep",
    "--run-dir": "--out of the sweep, the folder for all runs",
    "--threads": "--threads of the sweep",
    "--resume": "the same command again, which goes on where it stopped",
    "--go-on": "the same command again, which goes on where it stopped",
    "--diff": "scripts.train itself",
    "--print-preset": "scripts.train itself",
    "--help": "scripts.train itself",
    "-h": "scripts.train itself",
}


@dataclass(frozen=True)
class Job:
    """One run of the sweep."""

    name: str
    path: Path
    argv: tuple[str, ...]  # of scripts.train: begins the run, or goes on with it
    config: TrainConfig

    @property
    def log(self) -> Path:
        """Where it prints to."""
        return self.path.parent / "logs" / f"{self.name}.log"


@dataclass(frozen=True)
class Plan:
    """What is to be done for a run."""

    job: Job
    action: Action

    @property
    def is_open(self) -> bool:
        """Whether there is anything left to do."""
        return self.action in ("begin", "resume")


def make_jobs(request: SweepConfig) -> list[Job]:
    """All runs, seed by seed, so that a sweep that is cut short has whole pairs.

    :raises UsageError: for bad ones.
    """
    arms = expand_arms(request)
    for name, values in (("presets", request.presets), ("arms", list(arms)), ("seeds", request.seeds)):
        if not values:
            raise UsageError(f"--{name}: expected at least one; found none.")
        if len(set(values)) < len(values):
            raise UsageError(f"--{name}: expected each once; found {', '.join(map(str, values))}.")
    for preset in request.presets:
        find(preset)
    extra = train_words("--flags", request.flags)
    words = {arm: [*extra, *train_words(f"define.{arm}", flags)] for arm, flags in arms.items()}
    for arm, flags in words.items():
        if not request.trusted and not request.run_code and _names_code(flags):
            raise UsageError(
                f"expected --run-code, as the arm {arm!r} of this .toml file runs Python code. Add it if you trust "
                "that code."
            )
    jobs = [
        make_job(request.out, preset, arm, flags, seed)
        for seed in request.seeds
        for preset in request.presets
        for arm, flags in words.items()
    ]
    names = [job.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"expected a folder of its own for every run; {', '.join(sorted(twice))} is that of several.")
    return jobs


def _names_code(flags: Sequence[str]) -> bool:
    """Whether flags name an aggregator in a file, or a function as suite."""
    suites = [word.partition("=")[2] or after for word, after in pairwise([*flags, ""]) if given("--suite", [word])]
    return any(".py:" in word for word in flags) or any(":" in suite for suite in suites)


def train_words(where: str, flags: str) -> list[str]:
    """Return flags of scripts.train, word by word.

    :raises UsageError: for one that the sweep gives itself.
    """
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"{where}: expected flags of scripts.train; found {flags!r}: {error}.") from error
    for word in words:
        if (flag := word.split("=")[0].replace("_", "-")) in _INSTEAD:
            raise UsageError(
                f"{where}: expected flags that the sweep leaves free; found {word}. Instead: {_INSTEAD[flag]}."
            )
    return words


def expand_arms(request: SweepConfig) -> dict[str, str]:
    """Name -> flags of every arm that is asked for."""
    known = {**ARMS, **request.define}
    names = [name for word in request.arms for name in GROUPS.get(word, [word])]
    for name in names:
        if ":" not in name:  # torchjd:NAME and path/to/file.py:NAME are aggregators, too
            choose("arm", name, [*known, *GROUPS])
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--arms: expected every arm once; found {', '.join(sorted(twice))} more than once.")
    return {name: known.get(name, f"--aggregator {shlex.quote(name)}") for name in names}


def make_job(out: Path, preset: str, arm: str, flags: Sequence[str], seed: int) -> Job:
    """One run; its flags are read as scripts.train will read them, so a wrong one is noticed before anything runs."""
    words = [preset, *flags, "--seed", str(seed), "--no-progress"]
    known = find(preset)
    if known.config.workers == "auto" and not given("--workers", flags):
        words += ["--workers", "1"]  # a second worker would be one more process per core
    config = parse.parse_train(words)
    assert isinstance(config, TrainConfig)
    check_loggers(config.loggers)
    name = f"{known.name}-{arm.rpartition('/')[2].replace(':', '-').replace('.', '-')}-seed{seed}"
    name = f"trial-{name}" if config.trial else name
    argv = (*words, "--run-dir", str(out / name), "--go-on")
    return Job(name, out / name, argv, replace(config, run_dir=str(out / name)))


def plan(job: Job) -> Plan:
    """Return what is to be done for a run, as far as it is now: the training looks again when it begins.

    :raises UsageError: if its folder holds another run, or a process works there.
    """
    for path in (job.path, job.log, job.log.parent):
        if path.is_symlink():
            raise UsageError(
                f"expected a folder of plain files for the sweep; found the link {path}, and a sweep must not write "
                "elsewhere. Put what it points at in its place."
            )
    action = next_action(job.path, job.config)
    if action == "resume":
        with claimed(job.path):
            pass  # nobody else trains there
    return Plan(job, action)
