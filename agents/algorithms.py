"""The algorithms that a run can be of, by name. A new one is a class and a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.fields import fixed_by_plain_sac

if TYPE_CHECKING:  # settings are read without torch
    from agents.mtsac import MTSAC


@dataclass(frozen=True)
class Algorithm:
    """One row.

    :param home: "module:Class", imported when it is asked for. The class has what `MTSAC` shows to callbacks, commands
        and `agents.save_checkpoint`; what its constructor does not take it is not given.
    :param plain: whether it can do no more than plain SAC: `Role.plain_sac` then says what a setting must be.
    :param to_act: arguments of `load` that acting needs no more of than this.
    """

    home: str
    plain: bool = False
    to_act: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> type[MTSAC]:
        """The class."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)

    def fixed(self, settings: type) -> dict[str, Any]:
        """Return the fields that must have one value, with that value."""
        return fixed_by_plain_sac(settings) if self.plain else {}


ALGORITHMS = {
    # acting needs no aggregator: one from a file or a package of its own may be gone, and is not run
    "mtsac": Algorithm("agents.mtsac:MTSAC", to_act={"aggregator": "mean", "critic_aggregator": "mean"}),
    "independent": Algorithm("agents.independent:IndependentSAC", plain=True),
}
