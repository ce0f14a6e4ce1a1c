"""What `--aggregators A,B,...` means: names, checked before the work begins; each is built when its turn comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agents.fields import taken_by
from mtrl import AGGREGATORS, Aggregator, aggregator_class
from mtrl.aggregators import FORMER, required_options
from scripts.common.usage import UsageError, choose, usage_errors


def aggregator_kind(name: str) -> type[Aggregator]:
    """Return the class of an aggregator: a name of ours, `torchjd:NAME` or `path/to/file.py:NAME`.

    :raises UsageError: if there is none, or if TorchJD is not installed.
    """
    if ":" not in name:
        choose("aggregator", name, (*AGGREGATORS, *FORMER))
    with usage_errors():
        return aggregator_class(name)


def check_aggregators(names: Sequence[str]) -> None:
    """Raise UsageError unless every name is an aggregator's, and no name comes twice."""
    check_list("--aggregators", names, AGGREGATORS)
    for name in names:
        if needed := required_options(aggregator_kind(name)):
            raise UsageError(
                f"--aggregators: expected methods that work without options; {name} needs {', '.join(needed)}. "
                "Use it in scripts.train, which takes options."
            )


def check_list(flag: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise UsageError for an empty list and for a name that comes twice."""
    if not names:
        raise UsageError(f"{flag}: expected at least one of {', '.join(known)}; found none.")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"{flag}: expected every name once; found {', '.join(twice)} more than once.")


def build(name: str, **options: Any) -> Aggregator:
    """Return a new aggregator with those of the options that its constructor knows: not every method draws a `seed`."""
    kind = aggregator_kind(name)
    return kind(**taken_by(kind, options))
