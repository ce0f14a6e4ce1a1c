"""The command line of `scripts.train`.

`--aggregator NAME` is read first; the parser is then built for that class, so its options, their defaults and their
help come from its constructor and docstring: `--aggregator pcgrad --aggregator.reduction sum`.
"""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import StructConstructorSpec, StructFieldSpec, StructTypeInfo

from agents.fields import help_of, settings_of
from agents.learning.aggregation import refuse_for_actor
from envs import find_benchmark
from mtrl import make_aggregator
from mtrl.aggregators import WRAPPERS
from scripts.common.flags import auto_true_false, comma_separated
from scripts.common.methods import aggregator_kind
from scripts.common.usage import UsageError, given, step_limit, usage_errors
from scripts.setup.config import TrainConfig, check, fitted, shorten
from scripts.setup.overview import PROGRAM, print_difference, print_overview
from scripts.setup.presets import PRESETS, Preset, find, from_file, to_toml

_ALSO = " With --go-on: begin this run, resume it, or say that it is finished."
_AGGREGATOR_FLAGS = ("aggregator", "actor_aggregator", "critic_aggregator")


@dataclass(frozen=True)
class Resume:
    """What `--resume` takes: the rest is in the run folder.

    :param changes: settings to go on with in place of the run's, by name.
    """

    resume: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True
    run_code: bool = False
    track: tuple[str, ...] = ()

    def apply(self, config: TrainConfig) -> TrainConfig:
        """Return the run's config with the few changes that this command makes."""
        if config.trial and not step_limit():
            raise UsageError(
                f"expected a run to go on with; {self.resume} is a trial, made with STEPS set, and no beginning of a "
                "result. Train anew without STEPS, or set it to go on with the trial."
            )
        changed = tracked(replace(config, progress=self.progress, **self.changes), self.track)
        if changed.device != config.device:
            capture = self.changes.get("capture", "auto")
            changed = replace(changed, capture=capture, compile="auto")
        with usage_errors():
            check(changed)
        return changed


@dataclass(frozen=True)
class GoOn:
    """What `--go-on` asks for: this very run, however far it is."""

    config: TrainConfig


@dataclass(frozen=True)
class _Resumed:
    """The flags of `--resume` that are no settings."""

    resume: str
    """Folder of the run to go on with."""
    progress: bool = True
    """Show the progress bar."""
    run_code: bool = False
    """Run the Python code that the run's aggregator or suite comes from; only where you trust it."""


def _parse_resume(argv: Sequence[str]) -> Resume:
    """Besides `_Resumed`, every setting is a flag whose role says that a run can go on with another value."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    argv, track = _without_track(argv)
    flags = [
        (name, Annotated[hints[name] | None, tyro.conf.arg(help=setting.role.resume)], None)
        for name, setting in settings_of(TrainConfig).items()
        if setting.role.resume
    ]
    kind = make_dataclass("Resume", flags, bases=(_Resumed,), frozen=True)
    found: Any = _cli(kind, argv, PROGRAM, "Go on with a run, exactly where it stopped.")
    changes = {name: value for name, *_ in flags if (value := getattr(found, name)) is not None}
    return Resume(found.resume, changes, found.progress, found.run_code, track)


def _without_track(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the words without `--track A,B`, and what it names."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--track", action="append", default=[])
    try:
        known, rest = reader.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError("--track: expected trackers, as in --track wandb,mlflow; found nothing.") from error
    return rest, tuple(name.strip() for text in known.track for name in text.split(","))


def tracked(config: TrainConfig, track: Sequence[str]) -> TrainConfig:
    """Return the config with these loggers, too."""
    return replace(config, loggers=(*config.loggers, *(name for name in track if name not in config.loggers)))


def _cli(kind: Any, argv: Sequence[str], program: str, description: str) -> Any:
    """Read `argv`. How settings become flags is said here: `setup.config` knows nothing of a command line."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(comma_separated)
    registry.primitive_rule(auto_true_false)
    registry.struct_rule(_settings_with_help)
    return tyro.cli(kind, prog=program, args=argv, description=description, registry=registry)


def _settings_with_help(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return a flag for every setting of a config that has words of help; the others stay as they are."""
    if info.type is not TrainConfig:
        return None
    hints, default = get_type_hints(TrainConfig, include_extras=True), info.default
    flags = (
        StructFieldSpec(name, hints[name], getattr(default, name), helptext=words)
        for name, words in help_of(TrainConfig).items()
    )
    return StructConstructorSpec(partial(replace, default), tuple(flags))


def parse_train(argv: Sequence[str]) -> TrainConfig | Resume | GoOn | None:
    """Return the config or the run to resume that `argv` asks for; None where it only asks to be told something."""
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return _parse_resume(argv)
    if not argv:
        raise UsageError(f"expected a preset first, found nothing. Try: {PROGRAM} toy, or --help for what there is.")
    if argv[0] in ("-h", "--help"):
        print_overview()
        return None
    if argv[0].startswith("-"):
        raise UsageError(f"expected a preset first, found {argv[0]!r}. Write: {PROGRAM} PRESET {' '.join(argv)}")
    words = (("--algorithm", "independent") if word == "--independent" else (word,) for word in argv[1:])
    rest, track = _without_track([*chain.from_iterable(words)])
    flags, other, printed, go_on = _own_words(rest)
    preset = find(argv[0])
    with from_file(argv[0]):
        config = tracked(_parse_preset(preset, flags), track)
        with usage_errors():
            check(config)
    if other is not None:
        print_difference(config, _parse_preset(find(other), ()))
    if printed:
        print(to_toml(config, f"{preset.name} with {shlex.join(flags)}" if flags else preset.summary), end="")
    if printed or other is not None:
        return None
    if not given("--steps-per-task", flags) and (limit := step_limit()):
        config = shorten(config, limit)
    return GoOn(config) if go_on else config


def _own_words(flags: Sequence[str]) -> tuple[list[str], str | None, bool, bool]:
    """Return the flags without those that are no settings, and what these say.

    `--diff PRESET`: that preset's name; `--print-preset`: whether to print; `--go-on`: whether a run may be there.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--diff")
    reader.add_argument("--print-preset", "--print_preset", action="store_true")
    reader.add_argument("--go-on", "--go_on", action="store_true")
    try:
        known, rest = reader.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise UsageError(f"--diff: expected a preset, one of {', '.join(sorted(PRESETS))}; found nothing.") from error
    return rest, known.diff, known.print_preset, known.go_on


def _parse_preset(preset: Preset, flags: Sequence[str]) -> TrainConfig:
    """Return a preset with flags over it; not checked yet.

    :raises UsageError: for a flag that contradicts another.
    """
    defaults = fitted(preset.config, _peek("algorithm", flags, preset.config))
    peeked = {flag: _peek(flag, flags, defaults) for flag in _AGGREGATOR_FLAGS}
    networks = {flag: name for flag, name in peeked.items() if name or flag == "aggregator"}
    kinds = {flag: aggregator_kind(name) for flag, name in networks.items()}
    with usage_errors():
        refuse_for_actor(kinds.get("actor_aggregator") or kinds["aggregator"])
    others = {flag: _preset_options(flag, name, preset) for flag, name in networks.items()}
    settings: Any = Annotated[TrainConfig, tyro.conf.arg(name="")]  # its flags have no prefix
    groups = [
        (flag, Annotated[kind, tyro.conf.arg(name=flag.replace("_", "-"))])
        for flag, kind in kinds.items()
        if inspect.signature(kind).parameters  # tyro refuses a class without options
    ]
    command = make_dataclass("Command", [("config", settings, defaults), *groups], kw_only=True)
    told = "".join(f" Options of its {flag.replace('_', ' ')}: {found}." for flag, found in others.items() if found)
    parsed = _cli(command, flags, f"{PROGRAM} {preset.name}", f"Train: {preset.summary}.{told}{_ALSO}")
    options: dict[str, Any] = {f"{flag}_options": {} for flag in _AGGREGATOR_FLAGS}
    options |= {f"{flag}_options": _options(flag, parsed, flags, others[flag]) for flag in kinds}
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
    """Return an aggregator's name; a class in a file with the whole path, as a run may go on from another folder."""
    wrapper, _, method = name.partition(":")
    if wrapper in WRAPPERS:
        return f"{wrapper}:{_in_full(method)}"
    path, _, kind = name.rpartition(":")
    return f"{Path(path).resolve()}:{kind}" if path.endswith(".py") else name


def _preset_options(flag: str, name: str, preset: Preset) -> dict[str, Any]:
    """Return the options that the preset gives to this very aggregator.

    :raises UsageError: if it does not take them.
    """
    options = getattr(preset.config, f"{flag}_options") if name == getattr(preset.config, flag) else {}
    with usage_errors():
        try:
            make_aggregator(name, **options)
        except (TypeError, ValueError, RuntimeError) as error:  # it has no such option, or not of that value
            raise ValueError(f"{flag}_options of preset {preset.name}: {error}. Change them in its file.") from error
    return options


def _options(flag: str, parsed: Any, flags: Sequence[str], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the aggregator's constructor arguments: flags, then the preset's.

    One that draws follows --seed unless it is given a seed of its own.
    """
    options: dict[str, Any] = getattr(parsed, flag).hyperparameters() if hasattr(parsed, flag) else {}
    own = {name: f"--{flag}.{name}".replace("_", "-") for name in options}
    by_flag = {name for name, word in own.items() if given(word, flags) or given(word.replace(".", ".no-"), flags)}
    options |= {name: value for name, value in others.items() if name not in by_flag}
    if "seed" in options and "seed" not in by_flag | others.keys():
        options["seed"] = parsed.config.seed
    return options


def _peek(flag: str, flags: Sequence[str], defaults: TrainConfig) -> str:
    """Return the value of one plain flag, before there is a parser for the others."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument(f"--{flag.replace('_', '-')}", f"--{flag}", dest=flag, default=getattr(defaults, flag))
    try:
        return str(getattr(reader.parse_known_args(flags)[0], flag))
    except argparse.ArgumentError:  # the flag came last, without its value: the full parser says so
        return str(getattr(defaults, flag))
