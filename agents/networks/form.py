"""From settings by name to what one network is built of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.networks.base import Torso
from agents.networks.conditioning import CONDITIONINGS, Conditioning
from agents.networks.torsos import TORSOS


@dataclass(frozen=True)
class Form:
    """What one network is built of.

    :param torso: what makes the hidden layers of `Inputs` and `torso_options`.
    :param conditioning: how the task enters; it takes `conditioning_options` besides sizes.
    :param multi_head: one output layer per task instead of one for all.
    """

    num_tasks: int
    torso: Callable[..., Torso] = TORSOS["mlp"]
    torso_options: Mapping[str, Any] = field(default_factory=dict)
    conditioning: Callable[..., Conditioning] = CONDITIONINGS["one-hot"]
    conditioning_options: Mapping[str, Any] = field(default_factory=dict)
    multi_head: bool = False

    @classmethod
    def of(cls, network: str, num_tasks: int, settings: Mapping[str, Any]) -> Form:
        """The form that the settings of `MultiTaskPolicy` ask for.

        A torso takes those that its constructor names, without `actor_` or `critic_`, and a conditioning likewise.

        :param network: "actor" or "critic".
        :raises ValueError: for a name that is not registered.
        """
        torso = registered(f"{network}_torso", settings[f"{network}_torso"], TORSOS)
        conditioning = registered("conditioning", settings["conditioning"], CONDITIONINGS)
        if takes_task(torso):
            conditioning = Conditioning
        return cls(
            num_tasks,
            torso,
            _options(torso, settings, f"{network}_"),
            conditioning,
            _options(conditioning, settings, ""),
            settings["multi_head"],
        )


def registered(setting: str, given: Any, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The class of that name, or the class that was given itself.

    :raises ValueError: for a name that is not registered.
    """
    if callable(given):
        return given
    if given not in known:
        raise ValueError(f"{setting} is one of {', '.join(known)}; found {given!r}.")
    return known[given]


def takes_task(torso: Callable[..., Any]) -> bool:
    """Whether the torso is given the task apart from its features: `Torso.takes_task`."""
    while hasattr(torso, "func"):  # functools.partial
        torso = torso.func
    return getattr(torso, "takes_task", False)


def _options(kind: Callable[..., Any], settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = inspect.signature(kind).parameters
    return {name: settings[prefix + name] for name in names if prefix + name in settings}
