"""All aggregators by name: a new method is one file and one row in `registry`.

NaN or infinity in a gradient raises nothing, for that would mean to wait for the device: the update is not finite then,
whatever the method, and what a method has learned is left as it was. `mtrl.testing` has what else they all promise.
"""

import difflib
import inspect
from typing import Any

from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator
from mtrl.aggregators.outside import class_in_file, class_of_torchjd, foreign_name, remember
from mtrl.aggregators.registry import *  # noqa: F403  every method's class
from mtrl.aggregators.registry import AGGREGATORS, WEIGHTINGS, WRAPPERS
from mtrl.aggregators.weighting import weighted
from mtrl.aggregators.wrapped import wrapped

FORMER = {"mean-rescaled": "pcgrad-magnitude"}  # names that were given up -> the method's name


def aggregator_class(name: str) -> type[Aggregator]:
    """Return the class of that name: one of ours, `torchjd:NAME`, `path/file.py:NAME`, or such behind `WRAPPER:`.

    :raises ValueError: if there is no such class; the message says what was expected.
    :raises TypeError: if the name is no text.
    :raises ImportError: if TorchJD is not installed; the message says how to install it.
    """
    if not isinstance(name, str):
        raise TypeError(f"expected the name of an aggregator, such as 'pcgrad'; found {name!r}")
    if name in AGGREGATORS or name in WEIGHTINGS:
        return AGGREGATORS.get(name) or WEIGHTINGS[name]
    wrapper, _, method = name.partition(":")
    if wrapper in WEIGHTINGS:
        kind = aggregator_class(method)
        return remember(wrapped(weighted(WEIGHTINGS[wrapper], kind, wrapper), kind, name), name)
    if wrapper in WRAPPERS:
        return remember(wrapped(WRAPPERS[wrapper], aggregator_class(method), name), name)
    if name.startswith("torchjd:"):
        return class_of_torchjd(name)
    if ".py:" in name:
        return class_in_file(name)
    if name in FORMER:
        raise ValueError(
            f"unknown aggregator {name!r}: it was another name for {FORMER[name]!r}. Use that, also in the config.json "
            "of an old run."
        )
    near = difflib.get_close_matches(name.lower(), known := [*AGGREGATORS, *WEIGHTINGS], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"unknown aggregator {name!r}; expected one of {', '.join(known)}, torchjd:NAME or "
        f"path/to/file.py:NAME, perhaps behind {' or '.join(f'{wrapper}:' for wrapper in [*WRAPPERS, *WEIGHTINGS])}"
        f"{meant}"
    )


def make_aggregator(name: str, **options: Any) -> Aggregator:
    """Build the aggregator called `name`, see `aggregator_class`.

    :param options: constructor arguments of that class.
    :raises ValueError: if there is no such aggregator, or an option is out of its range.
    :raises TypeError: if the class has no such option; the message lists those that it has.
    """
    kind = aggregator_class(name)
    known = inspect.signature(kind).parameters
    if unknown := [option for option in options if option not in known]:
        raise TypeError(
            f"aggregator {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(known) or '(none)'}"
        )
    if missing := [name_ for name_ in required_options(kind) if name_ not in options]:
        raise TypeError(f"aggregator {name!r} needs a value for its option {', '.join(missing)}")
    return kind(**options)


def required_options(kind: type[Aggregator]) -> list[str]:
    """Return the options of a class that have no default (some of TorchJD's)."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def name_of(aggregator: Aggregator) -> str:
    """Return the name from which `make_aggregator` makes the same method.

    :raises ValueError: if its class has no name, so that a file could not name it.
    """
    names = [name for name, kind in [*AGGREGATORS.items(), *WEIGHTINGS.items()] if kind is type(aggregator)]
    if found := names[0] if names else foreign_name(type(aggregator)):
        return found
    kind = type(aggregator).__name__
    raise ValueError(
        f"{kind} is not in mtrl.AGGREGATORS, so a saved agent could not name it. Name it path/to/file.py:{kind}, or "
        f"register it: mtrl.AGGREGATORS['my-method'] = {kind}."
    )


__all__ = [
    "AGGREGATORS",
    "WEIGHTINGS",
    "WRAPPERS",
    "Aggregator",
    "GramianAggregator",
    "LossAggregator",
    "aggregator_class",
    "make_aggregator",
    "name_of",
    *(kind.__name__ for kind in [*AGGREGATORS.values(), *WEIGHTINGS.values()]),
]
