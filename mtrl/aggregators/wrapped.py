"""Wrappers around any method that weighs gradients by their products: `smoothed:pcgrad`, `scheduled:smoothed:cagrad`.

A wrapper is a class that comes before the method's in the order of bases and refines its `weights`. State, options and
whatever else a method has are inherited, so they are saved, moved and listed as those of any method.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from mtrl.aggregators.base import Aggregator, GramianAggregator


@cache
def wrapped(wrapper: type[GramianAggregator], kind: type[Aggregator], name: str) -> type[Aggregator]:
    """Make the class whose objects are `kind`'s with `wrapper` around them, with the options of both.

    :param name: what it is called, for errors.
    :raises ValueError: if `kind` is none that weighs gradients by their products, or has this wrapper already.
    """
    if not issubclass(kind, GramianAggregator):
        raise ValueError(
            f"aggregator {name!r}: expected a method that weighs gradients by their inner products, such as pcgrad; "
            f"{kind.__name__} does not. Use it without the wrapper."
        )
    if issubclass(kind, wrapper):
        raise ValueError(f"aggregator {name!r}: expected every wrapper once. Leave one {wrapper.__name__} out.")
    own = [p for p in inspect.signature(wrapper).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = list(inspect.signature(kind).parameters.values())
    if twice := {p.name for p in own} & {p.name for p in options}:
        raise ValueError(
            f"aggregator {name!r}: both have an option {', '.join(twice)}. Rename that of {kind.__name__}."
        )
    (about, ours), (claim, theirs) = _text(wrapper), _text(kind)
    body = {
        **constructor([*options, *own], wrapper.__init__),
        "__doc__": f"{about}\n\nThe method is {kind.__name__}: {claim.splitlines()[0]}\n\n{theirs}\n{ours}",
        "__module__": __name__,
        "capturable": kind.capturable,
    }
    made: Any = type(f"{wrapper.__name__}{kind.__name__}", (wrapper, kind), body)
    return made


def constructor(parameters: Iterable[inspect.Parameter], init: Callable[..., None]) -> dict[str, Any]:
    """Return what gives a class a constructor with these options, by keyword, which hands all of them on to `init`."""
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in sorted(parameters, key=lambda p: p.default is not p.empty)]
    signature = inspect.Signature(keywords)

    def __init__(self: Any, **options: Any) -> None:
        bound = signature.bind(**options)
        bound.apply_defaults()
        init(self, **bound.arguments)

    __init__.__annotations__ = {p.name: p.annotation for p in keywords}
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return {"__init__": __init__, "__signature__": signature}


def _text(kind: type) -> tuple[str, str]:
    """Split a docstring into what it says and its parameters."""
    text, mark, parameters = (inspect.getdoc(kind) or kind.__name__).partition(":param")
    return text.strip(), mark + parameters
