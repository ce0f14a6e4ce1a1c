"""The command line of `scripts.train`.

`--aggregator NAME` is read first; the parser is then built for that class, so its options, their defaults and their
help come from its constructor and docstring: `--aggregator pcgrad --aggregator.reduction sum`.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.table import Table

from envs import find_benchmark
from mtrl import AGGREGATORS
from scripts.common.flags import Capture
from scripts.common.methods import aggregator_kind
from scripts.common.screen import Screen, strong
from scripts.common.usage import UsageError, choose, given, step_limit, usage_errors
from scripts.setup.config import TrainConfig, check, plain_sac, shorten
from scripts.setup.presets import PRESETS

PROGRAM = "python -m scripts.train"
_AGGREGATOR_FLAGS = ("aggregator", "actor_aggregator", "critic_aggregator")


@dataclass(frozen=True)
class Resume:
    """What `--resume` takes: the rest is in the run folder."""

    resume: str
    """Folder of the run to go on with."""
    steps_per_task: int | None = None
    """Extend the run to this many steps per task."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Go on on another device; without it, on that of the run."""
    capture: Capture | None = None
    """Go on with updates captured as CUDA graphs, or not; without it, as the run does, or auto on another device."""
    workers: Literal["auto"] | int | None = None
    """Go on with another number of workers; the numbers stay the same."""
    learning_rate: float | None = None
    """Go on with another learning rate, e.g. after losses became non-finite."""
    max_grad_norm: float | None = None
    """Go on with another limit of the gradient's norm; 0: off."""
    progress: bool = True
    """Show the progress bar."""
    run_code: bool = False
    """Run the Python code that the run's aggregator or suite comes from; only where you trust it."""

    def apply(self, config: TrainConfig) -> TrainConfig:
        """The run's config with the few changes that this command makes."""
        if config.trial and not step_limit():
            raise UsageError(
                f"expected a run to go on with; {self.resume} is a trial, made with STEPS set, and no beginning of a "
                "result. Train anew without STEPS, or set it to go on with the trial."
            )
        device = self.device or config.device
        as_before = config.capture if device == config.device else "auto"
        changed = replace(
            config,
            steps_per_task=config.steps_per_task if self.steps_per_task is None else self.steps_per_task,
            capture=as_before if self.capture is None else self.capture,
            device=device,
            workers=config.workers if self.workers is None else self.workers,
            learning_rate=config.learning_rate if self.learning_rate is None else self.learning_rate,
            max_grad_norm=config.max_grad_norm if self.max_grad_norm is None else self.max_grad_norm,
            progress=self.progress,
        )
        with usage_errors():
            check(changed)
        return changed


def parse_train(argv: Sequence[str]) -> TrainConfig | Resume | None:
    """The config or the run to resume that `argv` asks for; None where it only asks to be told something."""
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return tyro.cli(Resume, prog=PROGRAM, args=argv, description="Go on with a run, exactly where it stopped.")
    if not argv:
        raise UsageError(f"expected a preset first, found nothing. Try: {PROGRAM} toy, or --help for what there is.")
    if argv[0] in ("-h", "--help"):
        print_overview()
        return None
    if argv[0].startswith("-"):
        raise UsageError(f"expected a preset first, found {argv[0]!r}. Write: {PROGRAM} PRESET {' '.join(argv)}")
    flags, other = _without_diff(argv[1:])
    config = _parse_preset(choose("preset", argv[0], PRESETS), flags)
    with usage_errors():
        check(config)
    if other is not None:
        print_difference(config, _parse_preset(choose("preset", other, PRESETS), ()))
        return None
    if given("--steps-per-task", flags) or not (limit := step_limit()):
        return config
    return shorten(config, limit)


def _without_diff(flags: Sequence[str]) -> tuple[list[str], str | None]:
    """The flags without `--diff PRESET`, and that preset's name."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--diff")
    try:
        known, rest = reader.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise UsageError(f"--diff: expected a preset, one of {', '.join(sorted(PRESETS))}; found nothing.") from error
    return rest, known.diff


def print_difference(config: TrainConfig, other: TrainConfig) -> None:
    """Every setting in which two configs differ, options of aggregators included; a dash where one has no such."""
    ours, theirs = _by_flag(config), _by_flag(other)
    table = Table("", config.preset, other.preset, box=box.SIMPLE_HEAD)
    for flag in dict.fromkeys([*ours, *theirs]):
        if flag != "--preset" and (mine := ours.get(flag, "")) != (its := theirs.get(flag, "")):
            table.add_row(flag, _shown(mine), _shown(its))
    Screen().print(table if table.rows else f"no difference to {other.preset}")


def _by_flag(config: TrainConfig) -> dict[str, Any]:
    """All settings by flag; options of an aggregator one by one, as --aggregator.NAME."""
    found: dict[str, Any] = {}
    for name, value in config.to_json().items():
        flag = f"--{name.removesuffix('_options').replace('_', '-')}"
        options = value if isinstance(value, dict) else {"": value}
        found |= {f"{flag}.{key.replace('_', '-')}".rstrip("."): item for key, item in options.items()}
    return found


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) if isinstance(value, list) else str(value)) or "-"


def _parse_preset(preset: str, flags: Sequence[str]) -> TrainConfig:
    """A preset with flags over it; not checked yet. Raises UsageError for a flag that contradicts another."""
    summary, defaults = PRESETS[preset]
    if "--independent" in flags:
        defaults = plain_sac(defaults)
    networks = {flag: name for flag in _AGGREGATOR_FLAGS if (name := _peek(flag, flags, defaults))}
    kinds = {flag: aggregator_kind(name) for flag, name in networks.items()}
    settings: Any = Annotated[TrainConfig, tyro.conf.arg(name="")]  # its flags have no prefix
    groups = [
        (flag, Annotated[kind, tyro.conf.arg(name=flag.replace("_", "-"))])
        for flag, kind in kinds.items()
        if inspect.signature(kind).parameters  # tyro refuses a class without options
    ]
    command = make_dataclass("Command", [("config", settings, replace(defaults, preset=preset)), *groups], kw_only=True)
    parsed: Any = tyro.cli(command, prog=f"{PROGRAM} {preset}", args=flags, description=f"Train: {summary}.")
    options = {f"{flag}_options": _options(flag, parsed, flags) for flag in kinds}
    config: TrainConfig = replace(parsed.config, **options)
    full_names: dict[str, Any] = {flag: _in_full(getattr(config, flag)) for flag in _AGGREGATOR_FLAGS}
    config = replace(config, **full_names)
    with usage_errors():
        benchmark = find_benchmark(config.suite)
    if config.tasks and benchmark.own_list:
        config = replace(config, suite=benchmark.own_list)  # the protocol must not call a list of one's own MT10
    if benchmark.is_code:
        config = replace(config, suite=benchmark.name)  # the path in full, as a run may go on from another folder
    if config.train_horizon > config.horizon:
        if given("--train-horizon", flags):
            limits = f"expected at most --horizon ({config.horizon}), or training visits what no evaluation sees"
            raise UsageError(f"--train-horizon: {limits}; found {config.train_horizon}. Lower it, or raise --horizon.")
        config = replace(config, train_horizon=0)  # the preset's is for longer episodes than are asked for
    return config


def _in_full(name: str) -> str:
    """An aggregator's name; a class in a file with the whole path, as a run may go on from another folder."""
    path, _, kind = name.rpartition(":")
    return f"{Path(path).resolve()}:{kind}" if path.endswith(".py") else name


def _options(flag: str, parsed: Any, flags: Sequence[str]) -> dict[str, Any]:
    """The aggregator's constructor arguments; one that draws follows --seed unless it is given a seed of its own."""
    options: dict[str, Any] = getattr(parsed, flag).hyperparameters() if hasattr(parsed, flag) else {}
    if "seed" in options and not given(f"--{flag.replace('_', '-')}.seed", flags):
        options["seed"] = parsed.config.seed
    return options


def _peek(flag: str, flags: Sequence[str], defaults: TrainConfig) -> str:
    """The value of one plain flag, before there is a parser for the others."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument(f"--{flag.replace('_', '-')}", f"--{flag}", dest=flag, default=getattr(defaults, flag))
    try:
        return str(getattr(reader.parse_known_args(flags)[0], flag))
    except argparse.ArgumentError:  # the flag came last, without its value: the full parser says so
        return str(getattr(defaults, flag))


def print_overview() -> None:
    """Usage, presets and aggregators, one line each."""
    console = Screen()
    console.print(f"Train one agent on many tasks.\n\n  {PROGRAM} PRESET [--aggregator NAME] [--steps-per-task N] ...")
    console.print(f"  {PROGRAM} PRESET --help\n  {PROGRAM} PRESET [flags] --diff OTHER-PRESET")
    console.print(f"  {PROGRAM} --resume RUN [--steps-per-task N]\n")
    listings = {
        "Presets": {name: summary for name, (summary, _) in PRESETS.items()},
        "Aggregators": {name: first_line(kind) for name, kind in AGGREGATORS.items()},
    }
    for title, rows in listings.items():
        table = Table.grid(padding=(0, 2), pad_edge=True)
        table.add_column(style="cyan", overflow="fold")
        for name, summary in rows.items():
            table.add_row(f"  {name}", summary)
        console.print(strong(title), table, "", sep="\n")
    console.print("Also torchjd:NAME for TorchJD's aggregators, and path/to/file.py:NAME for one of your own.\n")


def first_line(kind: type) -> str:
    """The claim that opens a docstring, up to its colon or full stop."""
    return re.split(r"[:.]\s", (kind.__doc__ or "").strip())[0]
