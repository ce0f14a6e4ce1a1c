"""What `--aggregators A,B,...` means: names, checked before the work begins; each is built when its turn comes.

Where the command says so, a name is followed by options: `mocograd@strength=0.3@momentum=0`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from agents.fields import taken_by
from mtrl import AGGREGATORS, WEIGHTINGS, Aggregator, aggregator_class
from mtrl.aggregators import FORMER, required_options
from scripts.common.usage import UsageError, choose, usage_errors


def aggregator_kind(name: str) -> type[Aggregator]:
    """Return the class of an aggregator: a name of ours, `torchjd:NAME` or `path/to/file.py:NAME`.

    :raises UsageError: if there is none, or if TorchJD is not installed.
    """
    if ":" not in name and name not in FORMER:  # which says what it is called now
        choose("aggregator", name, (*AGGREGATORS, *WEIGHTINGS))
    with usage_errors():
        return aggregator_class(name)


def check_aggregators(names: Sequence[str], *, options: bool = False, any_sign: bool = True) -> None:
    """Raise UsageError unless every name is an aggregator's, and no name comes twice.

    :param options: whether names may be followed by some.
    :param any_sign: whether the losses may be negative.
    """
    check_list("--aggregators", names, AGGREGATORS)
    for name in names:
        kind = aggregator_kind(name.partition("@")[0] if options else name)
        if any_sign and kind.non_negative:
            raise UsageError(
                f"--aggregators: expected methods for losses of any sign, as some here are negative; {name} is for "
                "losses from 0 on. Leave it out."
            )
        if needed := [option for option in required_options(kind) if option not in (_options(name) if options else {})]:
            how = "Add them" if options else "Use it in scripts.train, which takes options"
            raise UsageError(
                f"--aggregators: expected methods that work without options; {name} needs {', '.join(needed)}. {how}"
                f"{f': {name}@{needed[0]}=VALUE' if options else ''}."
            )
        if "@" in name:
            build(name)


def check_list(flag: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise UsageError for an empty list and for a name that comes twice."""
    if not names:
        raise UsageError(f"{flag}: expected at least one of {', '.join(known)}; found none.")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"{flag}: expected every name once; found {', '.join(twice)} more than once.")


def build(name: str, **options: Any) -> Aggregator:
    """Return a new aggregator with those of the options that its constructor knows: not every method draws a `seed`.

    :raises UsageError: for options behind the name that it does not have, or with values that it does not take.
    """
    kind, own = aggregator_kind(name.partition("@")[0]), _options(name)
    known = inspect.signature(kind).parameters
    for option, value in own.items():
        choose(f"option of {kind.__name__}", option, known)
        expected = type(known[option].default)
        if expected in (bool, int, float, str) and type(value) not in {
            expected,
            int if expected is float else expected,
        }:
            raise UsageError(f"{name}: expected {option} as a {expected.__name__}; found {value!r}.")
    with usage_errors():
        return kind(**taken_by(kind, options) | own)


def _options(name: str) -> dict[str, Any]:
    """Return the options behind a name, numbers as such."""
    found: dict[str, Any] = {}
    for word in name.split("@")[1:]:
        option, is_set, value = word.partition("=")
        if not is_set or not option or option in found:
            raise UsageError(f"{name}: expected options as @OPTION=VALUE behind the name, each once; found {word!r}.")
        try:
            found[option] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            found[option] = value
    return found
