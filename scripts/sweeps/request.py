"""What `scripts.sweep` is asked for: presets, arms and seeds, in flags or in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mtrl import AGGREGATORS
from scripts.common.flags import Counts, Names
from scripts.common.usage import UsageError, choose

PROGRAM = "python -m scripts.sweep"
_LONGEST = 2**20  # characters of a .toml file
ARMS = {name: f"--aggregator {name}" for name in AGGREGATORS} | {
    "multi-head-mean": "--aggregator mean --multi-head",
    "multi-head-pcgrad": "--aggregator pcgrad --multi-head",
    "pcgrad-critic-only": "--aggregator mean --critic-aggregator pcgrad",
    "pcgrad-actor-only": "--aggregator pcgrad --critic-aggregator mean",
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
    """Presets of scripts.train, e.g. mt10-quick or toy,mt10; or a .toml file with the flags as keys."""
    arms: Names = ("mean", "pcgrad")
    """Aggregators, other arms, or a group of arms."""
    seeds: Counts = (0,)
    """Seeds, the same for all arms, so that runs can be paired."""
    out: Path = Path("runs")
    """Folder for the runs, PRESET-ARM-seedSEED, and for their output, logs/."""
    flags: str = ""
    """Extra scripts.train flags for every run, quoted. Each run gets one worker unless --workers is among them."""
    launcher: str = "local"
    """Where the runs are executed; local: side by side on this machine."""
    jobs: Literal["auto"] | int = "auto"
    """Runs side by side; auto: one per core, with one thread each, which uses a machine best."""
    threads: Literal["auto"] | int = "auto"
    """Torch threads of each run; auto: cores / runs side by side. A resumed run keeps its number."""
    dry_run: bool = False
    """Print the commands and stop."""
    run_code: bool = False
    """Run the Python files that a .toml file names as aggregators; only if you trust it."""
    define: tyro.conf.Suppress[Mapping[str, str]] = field(default_factory=dict)
    trusted: tyro.conf.Suppress[bool] = True  # False: some of it comes from a file


def parse(argv: Sequence[str], description: str) -> SweepConfig:
    """The request in flags, or in a TOML file with flags over it."""
    argv = _joined(argv)
    files = [word for word in argv if word.endswith(".toml")]
    if files:
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


def _joined(argv: Sequence[str]) -> list[str]:
    """`--flags "--x 1"` as one word, or its value would be taken for a flag."""
    words = list(argv)
    if "--flags" in words[:-1]:
        at = words.index("--flags")
        words[at : at + 2] = [f"--flags={words[at + 1]}"]
    return words


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a sweep's file, as the fields of SweepConfig. Raises UsageError for what is missing or unknown."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows begin a file with a mark
            keys = tomllib.loads(file.read(_LONGEST))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"expected a sweep in TOML at {path}; found: {error}.") from error
    known = {f.name for f in fields(SweepConfig)} - {"dry_run", "run_code", "trusted"}
    for key in keys:
        choose(f"key in {path}", key, known)
    kinds: dict[str, tuple[type, type | None]] = {
        **dict.fromkeys(("presets", "arms"), (list, str)),
        **{"seeds": (list, int), "define": (dict, str)},
        **dict.fromkeys(("out", "flags", "launcher"), (str, None)),
    }
    for key, (kind, item) in kinds.items():
        value = keys.get(key, kind())
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or (item and not all(type(one) is item for one in items)):
            expected = f"a {kind.__name__} of {item.__name__}" if item else "a string"
            raise UsageError(f"{path}: {key}: expected {expected}; found {value!r}.")
    for key in ("jobs", "threads"):
        if key in keys and keys[key] != "auto" and type(keys[key]) is not int:
            raise UsageError(f"{path}: {key}: expected auto or a number; found {keys[key]!r}.")
    if not keys.get("presets"):
        raise UsageError(f'{path}: expected the presets to train, e.g. presets = ["mt10-quick"]; found none.')
    return {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()} | (
        {"out": Path(keys["out"])} if "out" in keys else {}
    )
