"""Gradient surgery for T losses that share parameters: torch only, knows nothing of reinforcement learning."""

from mtrl.aggregators import (
    AGGREGATORS,
    Aggregator,
    GramianAggregator,
    LossAggregator,
    Mean,
    PCGrad,
    make_aggregator,
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
    "backward",
    "make_aggregator",
    "per_task_gradients",
    "record",
]
