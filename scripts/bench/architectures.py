"""Time of one update with each architecture, against plain layers with as many parameters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from agents.networks.conditionings import CONDITIONINGS
from agents.networks.policies import MultiTaskPolicy
from agents.networks.torsos import TORSOS
from scripts.bench.figures import Figure, compare, take_turns
from scripts.bench.updates import ACTION, OBSERVATION, Size, update

# Plain layers of other widths take up to 1.8 times as long on a CPU: that would count against them.
WIDTHS = range(8, 8192, 8)


def architectures(size: Size, aggregators: Sequence[str], rounds: int) -> list[Figure]:
    """One update with each torso and conditioning in both networks, in turns with one of plain layers.

    The plain layers are as many, and so wide that actor and critics have as many parameters.
    """
    forms = {name: {"actor_torso": name, "critic_torso": name} for name in TORSOS if name != "mlp"}
    forms |= {name: {"conditioning": name} for name in CONDITIONINGS if name != "one-hot"}
    figures = []
    for form, networks in forms.items():
        plain = replace(size, width=width_of(size, num_parameters(replace(size, networks=networks))))
        for aggregator in aggregators:
            sizes = {form: replace(size, networks=networks), "mlp": plain}
            ways = {name: partial(update, each.make_agent(aggregator, "float32")) for name, each in sizes.items()}
            seconds = take_turns(ways, rounds, size.device)
            what, milliseconds = f"update, {size}, {form}, {aggregator}", 1e3 * float(np.median(seconds[form]))
            against = f"mlp's time, {plain.width} wide"
            figures.append(Figure(what, milliseconds, "ms", compare(seconds, form, "mlp"), against))
    return figures


def width_of(size: Size, parameters: int) -> int:
    """Return the least of `WIDTHS` for plain layers at which actor and critics have so many parameters or more."""
    return WIDTHS[bisect_left(WIDTHS, parameters, key=lambda width: num_parameters(replace(size, width=width)))]


def num_parameters(size: Size) -> int:
    """Return the number of parameters of actor and critics."""
    observations = Box(-np.inf, np.inf, (OBSERVATION + size.num_tasks,), np.float32)
    options: Mapping[str, Any] = {"num_tasks": size.num_tasks, **size.policy_kwargs}
    with torch.device("meta"):
        policy = MultiTaskPolicy(observations, Box(-1.0, 1.0, (ACTION,), np.float32), lambda _: 1e-3, **options)
    return sum(p.numel() for network in (policy.actor, policy.critic) for p in network.parameters())
