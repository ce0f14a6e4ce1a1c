"""Gradient surgery for T losses that share parameters: torch only, knows nothing of reinforcement learning."""

from mtrl.aggregators import (
    AGGREGATORS,
    Aggregator,
    GramianAggregator,
    LossAggregator,
    Mean,
    PCGrad,
    aggregator_class,
    make_aggregator,
    name_of,
)
from mtrl.gradients import backward, per_task_gradients
from mtrl.tape import Tape, record

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "GramianAggregator",
    "LossAggregator",
    "Mean",
    "PCGrad",
    "Tape",
    "aggregator_class",
    "backward",
    "make_aggregator",
    "name_of",
    "per_task_gradients",
    "record",
]
