"""What `--aggregators A,B,...` means: names, checked before the work begins; each is built when its turn comes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from mtrl import AGGREGATORS, Aggregator
from mtrl.aggregators import aggregator_class
from scripts import cli


def check_aggregators(names: Sequence[str]) -> None:
    """Raises UsageError unless every name is an aggregator's, and no name comes twice."""
    if not names:
        raise cli.UsageError(f"--aggregators: expected at least one of {', '.join(AGGREGATORS)}; found none.")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise cli.UsageError(f"--aggregators: expected every aggregator once; found {', '.join(twice)} more than once.")
    for name in names:
        kind_of(name)


def kind_of(name: str) -> type[Aggregator]:
    """The class of that name, `torchjd:NAME` or `path/to/file.py:NAME`. Raises UsageError if there is none."""
    if ":" not in name:
        return AGGREGATORS[cli.choose("aggregator", name, AGGREGATORS)]
    try:
        return aggregator_class(name)
    except (ValueError, ImportError) as error:
        raise cli.UsageError(str(error)) from error


def build(name: str, **options: Any) -> Aggregator:
    """A new aggregator with those of the options that its constructor knows: not every method draws a `seed`."""
    kind = kind_of(name)
    known = inspect.signature(kind).parameters
    return kind(**{option: value for option, value in options.items() if option in known})
