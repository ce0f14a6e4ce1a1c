"""What a study of `scripts.tune` may choose from: settings by name, each with a range or with choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from agents.fields import Setting, SettingError, check_fields, settings_of
from scripts.common.usage import UsageError, choose
from scripts.setup.config import TrainConfig

SETTINGS = {name: setting for name, setting in settings_of(TrainConfig).items() if setting.role.kind == "method"}
_RANGE = "NAME=LOW:HIGH or NAME=log:LOW:HIGH"


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    :param values: the two ends of a range, or all choices.
    :param kind: how values are drawn; linear and log: between the ends, whole numbers if both ends are.
    """

    name: str
    values: tuple[Any, ...]
    kind: str  # "linear", "log" or "choice"

    def distribution(self) -> Any:
        """Return it as Optuna has it."""
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution(self.values)
        whole = all(isinstance(value, int) for value in self.values)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        low, high = self.values
        return kind(low, high, log=self.kind == "log")

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"{self.name}: {', '.join(map(str, self.values))}"
        low, high = self.values
        return f"{self.name}: {low:g} to {high:g}{', logarithmic' if self.kind == 'log' else ''}"


def read_space(ranges: Sequence[str], choices: Sequence[str]) -> list[Dimension]:
    """Return what `--range` and `--choice` name.

    :raises UsageError: for a setting that is unknown or named twice, and for values that it cannot have.
    """
    space = [_range(word) for word in ranges] + [_choice(word) for word in choices]
    names = [dimension.name for dimension in space]
    if not names:
        raise UsageError(
            "expected what to search, e.g. --range learning-rate=log:1e-4:3e-3; found neither range nor choice."
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"expected every setting once; found {', '.join(sorted(twice))} more than once.")
    return space


def flags(values: Mapping[str, Any]) -> list[str]:
    """Return settings as flags of scripts.train."""
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if SETTINGS[name].type is bool:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def _range(word: str) -> Dimension:
    setting, text = _setting("--range", word)
    *kind, low, high = text.split(":") if text.count(":") in (1, 2) else ("no range", "", "")
    whole = int in _types(setting) and float not in _types(setting)
    try:
        ends = tuple((int if whole else float)(end) for end in (low, high))
    except ValueError:
        ends = ()
    if kind not in ([], ["log"]) or not ends or not ends[0] < ends[1] or (kind and ends[0] <= 0):
        number = "whole numbers" if whole else "numbers"
        raise UsageError(f"--range {word}: expected {_RANGE}, {number} with LOW below HIGH, and above 0 for log.")
    _check("--range", word, setting, ends)
    return Dimension(setting.name, ends, kind[0] if kind else "linear")


def _choice(word: str) -> Dimension:
    setting, text = _setting("--choice", word)
    values = tuple(_value(setting, part.strip()) for part in text.split(","))
    if len(set(values)) < max(2, len(values)):
        raise UsageError(f"--choice {word}: expected NAME=A,B,..., two or more different values.")
    _check("--choice", word, setting, values)
    return Dimension(setting.name, values, "choice")


def _setting(flag: str, word: str) -> tuple[Setting, str]:
    name, is_, text = word.partition("=")
    if not is_:
        raise UsageError(f"{flag} {word}: expected {_RANGE if flag == '--range' else 'NAME=A,B,...'}.")
    return SETTINGS[choose("setting", name.strip().replace("-", "_"), SETTINGS)], text


def _types(setting: Setting) -> tuple[Any, ...]:
    return get_args(setting.type) or (setting.type,)


def _value(setting: Setting, text: str) -> Any:
    """Return a value as its flag would be read: a number or true and false where the setting can be one."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if type(value) is int and float in _types(setting) and int not in _types(setting):
        return float(value)
    return text if isinstance(value, list | dict) or setting.type is str else value


def _check(flag: str, word: str, setting: Setting, values: Sequence[Any]) -> None:
    try:
        for value in values:
            check_fields(TrainConfig, {setting.name: value})
    except SettingError as error:
        raise UsageError(f"{flag} {word}: expected {error.expected}; found {error.found!r}.") from error
