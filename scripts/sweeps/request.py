"""What `scripts.sweep` is asked for: presets, arms and seeds, in flags or in a TOML file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.fields import SettingError, check_types
from mtrl.aggregators import AGGREGATORS, WEIGHTINGS
from scripts.common.flags import Counts, Names
from scripts.common.usage import UsageError, choose
from scripts.setup.presets import KNOWN, parsed

PROGRAM = "python -m scripts.sweep"
ARMS = {
    name: f"--aggregator mean --critic-aggregator {name}" if kind.non_negative else f"--aggregator {name}"
    for name, kind in {**AGGREGATORS, **WEIGHTINGS}.items()
} | {
    "multi-head-mean": "--aggregator mean --multi-head",
    "multi-head-pcgrad": "--aggregator pcgrad --multi-head",
    "pcgrad-critic-only": "--aggregator mean --critic-aggregator pcgrad",
    "pcgrad-actor-only": "--aggregator pcgrad --critic-aggregator mean",
    "fairgrad-critic-pcgrad-actor": "--aggregator pcgrad --critic-aggregator fairgrad",  # as TOPPO, arXiv 2605.11473
    "independent": "--independent",
}  # name -> flags of scripts.train
GROUPS = {
    "paper": "mean multi-head-mean pcgrad multi-head-pcgrad pcgrad-direction pcgrad-magnitude pcgrad-fixed gradnorm "
    "independent".split()
}  # the comparison of Yu et al. 2020


@dataclass(frozen=True)
class SweepConfig:
    """Which runs to train, and how many side by side."""

    presets: Annotated[Names, tyro.conf.Positional]
    """Presets of scripts.train, e.g. mt10-quick or toy,winner.toml; or a .toml file with the flags as keys."""
    arms: Names = ("mean", "pcgrad")
    """Aggregators, other arms, or a group of arms."""
    seeds: Counts = (0,)
    """Seeds, the same for all arms, so that runs can be paired."""
    out: Path = Path("runs")
    """Folder for the runs, PRESET-ARM-seedSEED, and for their output, logs/."""
    flags: str = ""
    """Extra scripts.train flags for every run, quoted; an arm's own win over them. Each run gets one worker unless
    --workers is among them."""
    launcher: str = "local"
    """Where the runs are executed. local: side by side on this machine; ray, slurm: on a cluster, whose nodes share
    the file system that --out is on."""
    jobs: Literal["auto"] | int = "auto"
    """Runs side by side; auto: one per core, with one thread each, which uses a machine best. On a cluster: runs that
    it is given at once; auto: all."""
    threads: Literal["auto"] | int = "auto"
    """Torch threads of each run; auto: cores / runs side by side; on a cluster: --cpus without workers, or 1. A resumed
    run keeps its number."""
    cpus: Literal["auto"] | int = "auto"
    """On a cluster, cores of each run; auto: one for each thread and worker."""
    gpus: float = 0.0
    """On a cluster, GPUs of each run; with ray also a share of one, such as 0.25 for four runs per GPU."""
    options: Names = ()
    """Options of the launcher, KEY=VALUE,...; ray: address=HOST:PORT; slurm: those of sbatch, such as
    partition=gpu,time=720 (minutes)."""
    retries: int = 2
    """How often a run goes on again after a worker died, the disk was full, its folder was in use, or the system killed
    it."""
    dry_run: bool = False
    """Print the commands and stop."""
    run_code: bool = False
    """Run the Python files that a .toml file names as aggregators; only if you trust it."""
    define: tyro.conf.Suppress[dict[str, str]] = field(default_factory=dict)
    trusted: tyro.conf.Suppress[bool] = True  # False: some of it comes from a file


def parse(argv: Sequence[str], description: str) -> SweepConfig:
    """Return the request in flags, or in a TOML file with flags over it."""
    argv = joined(argv)
    files = [word for word in argv if word.lower().endswith(".toml")]
    if files and not names_presets(files[0]):
        keys = read_toml(Path(files[0]))
        presets = ",".join(keys.pop("presets"))
        words = [presets, *(word for word in argv if word != files[0])]
        defaults = SweepConfig(presets=(presets,), **keys, trusted=False)
        return tyro.cli(SweepConfig, prog=PROGRAM, args=words, default=defaults)
    if not argv:
        raise UsageError(f"expected presets or a .toml file, found nothing. Try: {PROGRAM} toy")
    groups = "; ".join(f"{name}: {', '.join(arms)}" for name, arms in GROUPS.items())
    listing = f"Arms: {', '.join(ARMS)}, torchjd:NAME, path/to/file.py:NAME. Groups of arms: {groups}."
    return tyro.cli(SweepConfig, prog=PROGRAM, args=argv, description=f"{description}\n\n{listing}")


def names_presets(word: str) -> bool:
    """Whether a word is a preset in a file of its own, or several presets, rather than the file of a sweep."""
    if "," in word:
        return True
    keys = parsed(Path(word), tomllib.loads, "a sweep in TOML")
    return not {*keys}.isdisjoint({"summary", "base", *KNOWN} - {f.name for f in fields(SweepConfig)})


def check_numbers(request: SweepConfig) -> None:
    """Raise UsageError for a number that makes no sense."""
    for name in ("jobs", "threads", "cpus"):
        if (number := getattr(request, name)) != "auto" and number < 1:
            raise UsageError(f"--{name}: expected auto or at least 1; found {number}.")
    for name in ("gpus", "retries"):
        if not 0 <= (number := getattr(request, name)) < math.inf:
            raise UsageError(f"--{name}: expected 0 or more; found {number}.")


def joined(argv: Sequence[str]) -> list[str]:
    """Return `--flags "--x 1"` as one word, or its value would be taken for a flag."""
    words = list(argv)
    if "--flags" in words[:-1]:
        at = words.index("--flags")
        words[at : at + 2] = [f"--flags={words[at + 1]}"]
    return words


def read_toml(path: Path) -> dict[str, Any]:
    """Return the keys of a sweep's file, as the fields of SweepConfig.

    :raises UsageError: for what is missing or unknown.
    """
    keys = parsed(path, tomllib.loads, "a sweep in TOML")
    for key in keys:
        choose(f"key in {path}", key, {f.name for f in fields(SweepConfig)} - {"dry_run", "run_code", "trusted"})
    if isinstance(keys.get("out"), str):
        keys["out"] = Path(keys["out"])
    try:
        check_types(SweepConfig, keys)
    except SettingError as error:
        raise UsageError(f"{path}: {error}.") from error
    if not keys.get("presets"):
        raise UsageError(f'{path}: expected the presets to train, e.g. presets = ["mt10-quick"]; found none.')
    return {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
