"""Gradient surgery for T losses that share parameters: torch only, knows nothing of reinforcement learning."""

from mtrl.aggregators import (
    AGGREGATORS,
    WEIGHTINGS,
    Aggregator,
    GramianAggregator,
    LossAggregator,
    aggregator_class,
    make_aggregator,
    name_of,
)
from mtrl.aggregators.registry import *  # noqa: F403  every method's class
from mtrl.gradients import backward, per_task_gradients
from mtrl.tape import Tape, record

__all__ = [
    "AGGREGATORS",
    "WEIGHTINGS",
    "Aggregator",
    "GramianAggregator",
    "LossAggregator",
    "Tape",
    "aggregator_class",
    "backward",
    "make_aggregator",
    "name_of",
    "per_task_gradients",
    "record",
    *(kind.__name__ for kind in [*AGGREGATORS.values(), *WEIGHTINGS.values()]),
]
