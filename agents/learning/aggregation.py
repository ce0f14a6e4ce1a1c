"""Aggregators by name: built with their options, and named again for a file."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

import mtrl
from agents.settings import AgentSettings


def build_aggregator(given: str | mtrl.Aggregator, options: Mapping[str, Any] | None, seed: int) -> mtrl.Aggregator:
    """Build the aggregator of that name with its options, or copy the instance given: two networks share no state.

    :param seed: for a method that draws random numbers, unless its options name a seed.
    :raises ValueError: for an unknown name or options that do not go with it.
    """
    if isinstance(given, mtrl.Aggregator) and not options:
        return copy.deepcopy(given)
    if not isinstance(given, str):
        raise ValueError(
            f"aggregator takes a name ({', '.join(mtrl.AGGREGATORS)}), with options apart, or an instance of "
            f"mtrl.Aggregator, which has its options already; found {given!r} with options {options}."
        )
    options = dict(options or {})
    known = inspect.signature(mtrl.aggregator_class(given)).parameters
    if unknown := set(options) - set(known):
        raise ValueError(f"aggregator {given!r} has no option {', '.join(unknown)}; its options: {', '.join(known)}.")
    if "seed" in known:
        options.setdefault("seed", seed)
    return mtrl.make_aggregator(given, **options)


def refuse_for_actor(kind: type[mtrl.Aggregator]) -> None:
    """Refuse a method for losses that are never negative.

    :raises ValueError: saying where it can be used.
    """
    if kind.non_negative:
        raise ValueError(
            f"the actor's aggregator: expected one for losses of any sign, as SAC's actor has negative ones; found "
            f"{kind.__name__}, which is for losses from 0 on. Use it for the critic alone (critic_aggregator), with "
            "another one for the actor, such as mean."
        )


def refuse_beside_loss_limit(aggregator: mtrl.Aggregator) -> None:
    """Refuse a method that a task with loss and gradient 0 stops: one that looks for the shortest update, for example.

    :raises ValueError: saying why.
    """
    method = copy.deepcopy(aggregator).cpu()
    method.batches = method.wanted_batches
    method.reset(2, 2)
    losses = torch.tensor([1.0, 0.0]).repeat_interleave(method.batches)
    if not method(losses.unsqueeze(1).repeat(1, 2), losses).norm() > 1e-4:
        raise ValueError(
            "loss_limit: expected 0 beside this aggregator, as a task whose loss explodes has loss and gradient 0, "
            f"with which {type(aggregator).__name__} stops all tasks; found a limit. Take another aggregator."
        )


def check_batches(aggregator: mtrl.Aggregator, settings: AgentSettings) -> None:
    """Refuse to deal a task's rows out to more batches than they make, or rows that are not independent.

    :raises ValueError: saying how many are needed.
    """
    batches, kind = aggregator.wanted_batches, type(aggregator).__name__
    batch_size, buffer_size = settings.batch_size, settings.buffer_size
    if batch_size % batches:
        raise ValueError(
            f"{kind} deals each task's rows out to {batches} independent batches: expected a batch_size that is a "
            f"multiple of {batches}; found {batch_size}."
        )
    if batches > 1 and buffer_size < batch_size:
        raise ValueError(
            f"{kind} takes {batches} independent batches, together batch_size={batch_size} rows of each task: expected "
            f"a buffer_size of at least as many, or they are the same few transitions; found {buffer_size}."
        )
    if batches > 1 and settings.episode_batches:
        raise ValueError(
            f"{kind} takes {batches} independent batches, and with episode_batches they are of one episode: take one "
            "of them."
        )


def describe_aggregator(aggregator: mtrl.Aggregator) -> tuple[str, dict[str, Any]]:
    """Name and options from which `build_aggregator` makes the same method.

    :raises ValueError: if no name leads to the method, so that a file could not name it.
    """
    return mtrl.name_of(aggregator), aggregator.hyperparameters()
