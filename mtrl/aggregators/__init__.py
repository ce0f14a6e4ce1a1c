"""All aggregators by name: a new method is one file and one row here."""

from typing import Any

from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator
from mtrl.aggregators.mean import Mean
from mtrl.aggregators.pcgrad import PCGrad

AGGREGATORS: dict[str, type[Aggregator]] = {"mean": Mean, "pcgrad": PCGrad}


def make_aggregator(name: str, **options: Any) -> Aggregator:
    """Build the aggregator called ``name``.

    :param options: constructor arguments of that class.
    :raises ValueError: if there is no such aggregator; the message lists those that exist.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"unknown aggregator {name!r}; expected one of {', '.join(AGGREGATORS)}")
    return AGGREGATORS[name](**options)


__all__ = ["AGGREGATORS", "Aggregator", "GramianAggregator", "LossAggregator", "Mean", "PCGrad", "make_aggregator"]
