"""The algorithms that a run can be of, by name. A new one is a class and a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from agents.fields import Lack, SettingError, equal, fixed_by


@dataclass(frozen=True)
class Algorithm:
    """One row.

    :param home: "module:Class", imported when it is asked for. The class has what `MTSAC` shows to callbacks, commands
        and `agents.save_checkpoint`; what its constructor does not take it is not given.
    :param title: what it is, in words that follow "a".
    :param lacks: fields of `agents.fields.Role` that say what a setting must be for it, each with the reason.
    :param to_act: arguments of `load` that acting needs no more of than this.
    """

    home: str
    title: str = "multi-task"
    lacks: Mapping[Lack, str] = field(default_factory=dict)
    to_act: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Any:
        """The class; importing it needs torch, and settings are read without."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)

    def fixed(self, settings: type) -> dict[str, Any]:
        """Return the fields that must have one value, with that value."""
        return {name: value for lack in self.lacks for name, value in fixed_by(settings, lack).items()}

    def check(self, settings: Any, where: str = "") -> None:
        """Refuse settings that it cannot follow.

        :param settings: an instance of a dataclass of settings.
        :param where: what the message adds to the value.
        :raises SettingError: for the first, with the reason.
        """
        for lack, reason in self.lacks.items():
            for name, value in fixed_by(type(settings), lack).items():
                if not equal(found := getattr(settings, name), value):
                    raise SettingError(name, f"{value!r}{where}, {reason}", found)


_MEAN = {"aggregator": "mean", "critic_aggregator": "mean"}  # one from a file or a package of its own may be gone

ALGORITHMS = {
    "mtsac": Algorithm(
        "agents.mtsac:MTSAC", "multi-task SAC", {"no_added_noise": "as SAC draws its actions and adds no noise"}, _MEAN
    ),
    "independent": Algorithm(
        "agents.independent:IndependentSAC",
        "independent SAC",
        {"plain_sac": "as plain SAC has it", "no_added_noise": "as SAC draws its actions and adds no noise"},
    ),
    "td3": Algorithm(
        "agents.mttd3:MTTD3",
        "multi-task TD3",
        {
            "no_entropy": "as the policy of TD3 is deterministic and has no entropy",
            "targets_with_actor": "as the targets of TD3 move with its actor, in every policy_delay-th update",
        },
        _MEAN,
    ),
}
