"""All aggregators by name: a new method is one file and one row here.

NaN or infinity in a gradient raises nothing, for that would mean to wait for the device: the update is not finite then,
whatever the method, and what a method has learned is left as it was. ``mtrl.testing`` has what else they all promise.
"""

import inspect
from typing import Any

from mtrl.aggregators.aligned_mtl import AlignedMTL
from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator
from mtrl.aggregators.cagrad import CAGrad
from mtrl.aggregators.famo import FAMO
from mtrl.aggregators.gradnorm import GradNorm
from mtrl.aggregators.gradvac import GradVac
from mtrl.aggregators.imtl_g import IMTLG
from mtrl.aggregators.mean import Mean
from mtrl.aggregators.mgda import MGDA
from mtrl.aggregators.mocograd import MoCoGrad
from mtrl.aggregators.nash_mtl import NashMTL
from mtrl.aggregators.outside import class_in_file, class_of_torchjd, foreign_name
from mtrl.aggregators.pcgrad import PCGrad
from mtrl.aggregators.pcgrad_direction import PCGradDirection
from mtrl.aggregators.pcgrad_fixed import PCGradFixed
from mtrl.aggregators.pcgrad_magnitude import PCGradMagnitude

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": Mean,
    "pcgrad": PCGrad,
    "pcgrad-direction": PCGradDirection,
    "pcgrad-magnitude": PCGradMagnitude,
    "pcgrad-fixed": PCGradFixed,
    "gradvac": GradVac,
    "mocograd": MoCoGrad,
    "cagrad": CAGrad,
    "mgda": MGDA,
    "imtl_g": IMTLG,
    "nash_mtl": NashMTL,
    "aligned_mtl": AlignedMTL,
    "gradnorm": GradNorm,
    "famo": FAMO,
}

# The same method by the name that says what it is for: a control for the length of PCGrad's steps.
ALIASES = {"mean-rescaled": "pcgrad-magnitude"}


def aggregator_class(name: str) -> type[Aggregator]:
    """The class called ``name`` in ``AGGREGATORS`` or ``ALIASES``, ``torchjd:NAME``, or ``path/file.py:NAME``.

    :raises ValueError: if there is no such class; the message says what was expected.
    :raises ImportError: if TorchJD is not installed; the message says how to install it.
    """
    name = ALIASES.get(name, name)
    if name in AGGREGATORS:
        return AGGREGATORS[name]
    if name.startswith("torchjd:"):
        return class_of_torchjd(name)
    if ".py:" in name:
        return class_in_file(name)
    raise ValueError(
        f"unknown aggregator {name!r}; expected one of {', '.join(AGGREGATORS)}, torchjd:NAME or path/to/file.py:NAME"
    )


def make_aggregator(name: str, **options: Any) -> Aggregator:
    """Build the aggregator called ``name``, see ``aggregator_class``.

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
    """The options of a class that have no default (some of TorchJD's)."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def name_of(aggregator: Aggregator) -> str:
    """The name from which ``make_aggregator`` makes the same method.

    :raises ValueError: if its class has no name, so that a file could not name it.
    """
    names = [name for name, kind in AGGREGATORS.items() if kind is type(aggregator)]
    if found := names[0] if names else foreign_name(type(aggregator)):
        return found
    kind = type(aggregator).__name__
    raise ValueError(
        f"{kind} is not in mtrl.AGGREGATORS, so a saved agent could not name it. Name it path/to/file.py:{kind}, or "
        f"register it: mtrl.AGGREGATORS['my-method'] = {kind}."
    )


__all__ = [
    "AGGREGATORS",
    "ALIASES",
    "FAMO",
    "IMTLG",
    "MGDA",
    "Aggregator",
    "AlignedMTL",
    "CAGrad",
    "GradNorm",
    "GradVac",
    "GramianAggregator",
    "LossAggregator",
    "Mean",
    "MoCoGrad",
    "NashMTL",
    "PCGrad",
    "PCGradDirection",
    "PCGradFixed",
    "PCGradMagnitude",
    "aggregator_class",
    "make_aggregator",
    "name_of",
]
