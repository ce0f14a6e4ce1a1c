"""Each task's rows dealt out to independent batches, for aggregators that want them (`mtrl.Aggregator.batches`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jaxtyping import Float
from torch import Tensor

import mtrl


def agreed(aggregators: Collection[mtrl.Aggregator]) -> int:
    """Tell the aggregators that each gets as many batches as it wants, and return the largest number."""
    for aggregator in aggregators:
        aggregator.batches = aggregator.wanted_batches
    return max(aggregator.batches for aggregator in aggregators)


def deal(sample: Any, num_tasks: int, batches: int) -> Any:
    """Return a sample with each task's rows dealt out in turn to so many batches, one after the other.

    All are of one distribution, as in a sample of the buffer those that were drawn for their reward come last; if these
    are no multiple of `batches`, the last batches have one more of them than the first.

    :param sample: a named tuple of tensors (T B, ...), task by task, or of None.
    """
    if batches == 1:
        return sample
    deals = (
        None if rows is None else rows.unflatten(0, (num_tasks, -1, batches)).transpose(1, 2).flatten(0, 2)
        for rows in sample
    )
    return sample._make(deals)


def mean(rows: Float[Tensor, "*rest tasks rows"], batches: int) -> Float[Tensor, "*rest losses"]:
    """Mean over the rows of each task, or of each of its batches, these side by side."""
    return rows.mean(-1) if batches == 1 else rows.unflatten(-1, (batches, -1)).mean(-1).flatten(-2)


def of_tasks(losses: Float[Tensor, " losses"], num_tasks: int) -> Float[Tensor, " tasks"]:
    """Mean over the batches of each task."""
    return losses if len(losses) == num_tasks else losses.unflatten(0, (num_tasks, -1)).mean(-1)


def weighted(losses: Float[Tensor, " losses"], weights: Float[Tensor, " tasks"] | float) -> Float[Tensor, " losses"]:
    """Losses times the weights of their tasks."""
    if isinstance(weights, float) or len(losses) == len(weights):
        return losses * weights
    return losses * weights.repeat_interleave(len(losses) // len(weights))
