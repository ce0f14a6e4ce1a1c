"""Presets: settings that belong together, one TOML file each, by name or by path.

A file holds fields of `TrainConfig`, with a `summary` in one line and, if it begins from another preset, that one's
name, or path beside the file, as `base`. Those of the package lie in `presets/`; a file of one's own works alike:

    python -m scripts.train mt10-quick --gamma 0.98 --print-preset > mine.toml
    python -m scripts.train mine.toml --seed 3

A run's config.json is such a file, too: `python -m scripts.train runs/x/config.json --seed 3` repeats that run.
"""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.fields import SettingError, help_of, settings_of
from agents.settings import AHEAD_REMOVED
from scripts.common.text import parse_json
from scripts.common.usage import InUse, UsageError, check_folder, choose
from scripts.setup.config import TrainConfig, check_settings, fitted, renamed
from scripts.setup.trust import code_of

FOLDER = Path(__file__).parent / "presets"
_LONGEST = 2**20  # characters; the longest of ours has some 2,000
KNOWN = {name for name, setting in settings_of(TrainConfig).items() if setting.role.in_presets}


@dataclass(frozen=True)
class Preset:
    """A name, one line about it, and its settings."""

    name: str
    summary: str
    config: TrainConfig


def find(word: str) -> Preset:
    """Return the preset of that name, or the one in that file.

    :raises UsageError: naming file and key, if there is none.
    """
    path = Path(word)
    ending = path.suffix.lower()
    if ending == ".json":
        return _from_run(path)
    return _read(path) if ending == ".toml" else PRESETS[choose("preset", word, PRESETS)]


@contextmanager
def from_file(*words: str) -> Iterator[None]:
    """Inside, an error about settings names the file that they come from, if there is one among the words."""
    try:
        yield
    except InUse:
        raise
    except UsageError as error:
        files = [word for word in words if Path(word).suffix.lower() in (".toml", ".json")]
        if not files or any(file in str(error) for file in files):
            raise
        raise UsageError(f"with {files[0]}: {error}") from error


def _read(path: Path) -> Preset:
    """Return the preset in a file of its own."""
    keys = _merged(path, ())
    summary = keys.pop("summary", "settings of your own")
    return _preset(path, path.stem, summary, keys)


def _from_run(path: Path) -> Preset:
    """Return the settings of a run, but for its folder; an aggregator that draws follows --seed if it did there."""
    keys = renamed(parsed(path, parse_json))
    name = keys.get("preset") or path.stem
    _require_known(path, keys, settings_of(TrainConfig))
    seed = keys.get("seed")
    keys = {key: _without(seed, value) for key, value in keys.items() if key in KNOWN}
    return _preset(path, name, f"as the run in {path.parent}", keys)


def _preset(path: Path, name: Any, summary: Any, keys: dict[str, Any]) -> Preset:
    if not isinstance(summary, str) or len(summary.splitlines()) != 1:
        raise UsageError(f"{path}: summary: expected one line of text; found {summary!r}.")
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise UsageError(f"{path}: expected a preset with a name; found {name!r}.")
    check_folder(str(path), name)  # runs will be called after it
    try:
        defaults = fitted(TrainConfig(), str(keys.get("algorithm", TrainConfig.algorithm)))
        config = TrainConfig.from_json({**defaults.to_json(), "preset": name, **keys})
        check_settings(config)
        for flag in ("actor_aggregator", "critic_aggregator"):
            if not getattr(config, flag) and (options := getattr(config, f"{flag}_options")):
                raise SettingError(f"{flag}_options", f"none, as no {flag} is named", options)
    except ValueError as error:
        raise UsageError(f"{path}: {str(error).removesuffix('.')}{'' if str(error)[-1:] == '?' else '.'}") from error
    if code := code_of(config):
        raise UsageError(
            f"{path}: expected settings that run no code; found {code[0]!r}. Take it out, and name it on the command "
            "line if you trust it."
        )
    return Preset(name, summary, config)


def _merged(path: Path, inside: tuple[Path, ...]) -> dict[str, Any]:
    """Return the keys of a file over those of its base."""
    keys = renamed(parsed(path, tomllib.loads))  # first, as no link that leads to itself has a place
    if path.resolve() in inside:
        raise UsageError(f"{path}: base: expected another preset to begin from; found a circle.")
    _require_known(path, keys, {*KNOWN, "summary", "base"})
    base = keys.pop("base", None)
    if base is None:
        return keys
    if not isinstance(base, str):
        raise UsageError(f"{path}: base: expected the name or the path of a preset; found {base!r}.")
    own = path.parent / base if base.lower().endswith(".toml") else FOLDER / f"{_named(path, base)}.toml"
    below = _merged(own, (*inside, path.resolve()))
    below.pop("summary", None)
    return below | keys


def _named(path: Path, base: str) -> str:
    try:
        return choose("preset", base, (file.stem for file in FOLDER.glob("*.toml")))
    except UsageError as error:
        raise UsageError(f"{path}: base: {error}") from error


def _require_known(path: Path, keys: Iterable[str], known: Iterable[str]) -> None:
    if "collect_ahead" in keys:
        raise UsageError(f"{path}: {AHEAD_REMOVED}. Take it out, and train without.")
    for key in keys:
        choose(f"key in {path}", key, known)


def parsed(path: Path, loads: Any, what: str = "a preset") -> dict[str, Any]:
    """Return the keys of a file.

    :raises UsageError: if it is not there, no text, too long, or of another form.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise UsageError(f"expected {what} at {path}; found a folder, a pipe or a device.")
    try:
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows begin a file with a mark
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ValueError(f"more than {_LONGEST:,} characters")
        keys = loads(text)
    except FileNotFoundError:
        raise UsageError(f"expected {what} at {path}; found nothing.") from None
    except (OSError, ValueError, RecursionError) as error:  # of which what is no UTF-8, TOML or JSON is some
        raise UsageError(f"expected {what} at {path}; found: {error}.") from error
    if not isinstance(keys, dict):
        raise UsageError(f"expected {what} at {path}; found {type(keys).__name__}.")
    return keys


def to_toml(config: TrainConfig, summary: str) -> str:
    """Return a preset's file with every setting and its help. An aggregator that draws goes on following --seed."""
    helps, parts = help_of(TrainConfig), [f"summary = {_spelled(summary)}"]
    for name, value in config.to_json().items():
        value = _without(config.seed, value)
        if name in KNOWN and value != {}:
            comment = textwrap.fill(helps.get(name, ""), 100, initial_indent="# ", subsequent_indent="# ")
            parts.append(f"{comment}\n{name} = {_spelled(value)}".lstrip())
    return "\n\n".join(parts) + "\n"


def _without(seed: Any, value: Any) -> Any:
    """Options of an aggregator without a seed that is the run's; any other value as it is."""
    if not isinstance(value, dict):
        return value
    return {name: option for name, option in value.items() if (name, option) != ("seed", seed)}


def _spelled(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_spelled(key)} = {_spelled(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    # JSON's text is TOML's, but for one control character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


PRESETS = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}
