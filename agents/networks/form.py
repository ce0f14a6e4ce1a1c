"""From settings by name to what one network is built of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.networks.base import Torso
from agents.networks.conditioning import Conditioning
from agents.networks.conditionings import CONDITIONINGS
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
        """Return the form that the settings of `MultiTaskPolicy` ask for.

        A torso takes those that its constructor names, without `actor_` or `critic_` where they have it, and a
        conditioning likewise.

        :param network: "actor" or "critic".
        """
        torso = TORSOS[settings[f"{network}_torso"]]
        conditioning = Conditioning if takes_task(torso) else CONDITIONINGS[settings["conditioning"]]
        return cls(
            num_tasks,
            torso,
            _options(torso, settings, f"{network}_"),
            conditioning,
            _options(conditioning, settings, ""),
            settings["multi_head"],
        )


REGISTRIES: dict[str, dict[str, Any]] = {
    **{"actor_torso": TORSOS, "critic_torso": TORSOS},
    "conditioning": CONDITIONINGS,
}


def by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with classes of torsos and conditionings replaced by their names, as a file has them.

    A class that is in no registry is added to its own, as "module:Class".
    """
    classes = {name: value for name, value in settings.items() if name in REGISTRIES and isinstance(value, type)}
    return {**settings, **{name: _name_of(kind, REGISTRIES[name]) for name, kind in classes.items()}}


def _name_of(kind: type, registry: dict[str, Any]) -> str:
    known = (name for name, other in registry.items() if other is kind)
    name = next(known, f"{kind.__module__}:{kind.__qualname__}")
    registry[name] = kind
    return name


def takes_task(torso: Any) -> bool:
    """Whether the torso is given the task apart from its features: `Torso.takes_task`."""
    return getattr(getattr(torso, "func", torso), "takes_task", False)  # func: of functools.partial


def idle_norms(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that ask for LayerNorm where a torso has none, with the torso; some have norms anyway."""
    found = {}
    for network in ("actor", "critic"):
        name, torso = f"{network}_layer_norm", TORSOS.get(settings[f"{network}_torso"])
        normed = (
            torso is None or getattr(torso, "residual", False) or "layer_norm" in inspect.signature(torso).parameters
        )
        if settings[name] and not normed:
            found[name] = settings[f"{network}_torso"]
    return found


def _options(kind: Callable[..., Any], settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = inspect.signature(kind).parameters
    return {name: settings[full] for name in names for full in (prefix + name, name) if full in settings}
