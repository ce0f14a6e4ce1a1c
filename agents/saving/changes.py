"""What may change of an agent when it is loaded: not what its networks and temperatures learned with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mtrl
from agents.fields import settings_of
from agents.networks.form import REGISTRIES
from agents.saving.state_file import StateFileError
from agents.settings import ARS_REMOVED, AgentSettings, NetworkSettings

AGGREGATORS = ("aggregator", "critic_aggregator")


def check_changes(
    kind: Any,
    path: Any,
    settings: Mapping[str, Any],
    files: Mapping[str, str],
    changes: Mapping[str, Any],
    run_code: bool,
) -> None:
    """Refuse changes that the learned values do not survive, and a file that needs code which was not given.

    :param settings: of the agent in the file.
    :param files: names of its policy and aggregators.
    :raises StateFileError: for code that is missing, or a method that is gone.
    :raises ValueError: for the rest.
    """
    for name in AGGREGATORS:
        if name not in changes and ".py:" in files.get(name, ""):
            if not run_code:
                raise ValueError(
                    f"{path} was saved with the {name} {files[name]}. To open it runs that file: if you trust it, "
                    'load(..., run_code=True); to act, give aggregator="mean" and critic_aggregator="mean".'
                )
            mtrl.aggregator_class(files[name])  # that file may be gone or wrong, which is no damage of this one
    if "policy" not in changes and files["policy"] not in kind.policy_aliases:
        module, _, name = files["policy"].rpartition(":")
        raise StateFileError(
            f"{path} was saved with the policy {name} of {module or '?'}, and files hold no code: import that "
            f"class and give it, load(..., policy={name.rpartition('.')[2]}). It gets the weights of the file."
        )
    saved, given = settings["policy_kwargs"], changes.get("policy_kwargs") or {}
    for name in REGISTRIES.keys() & saved.keys() - given.keys():
        if saved[name] not in REGISTRIES[name]:
            raise StateFileError(
                f"{path} was saved with the {name} {saved[name]}, and files hold no code: add that class to its "
                f"registry under this name, or give it, load(..., policy_kwargs={{{name!r}: Class}})."
            )
    if settings["return_scale"] == "ars":
        raise StateFileError(f"{path}: {ARS_REMOVED}")
    _check_learned(path, {**settings, **saved}, {**changes, **given})


def _check_learned(path: Any, saved: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    known = {**settings_of(AgentSettings), **settings_of(NetworkSettings)}
    was = {name: saved.get(name, known[name].default) for name in known}
    changes = {name: value for name, value in changes.items() if name in known}  # others are Stable-Baselines3's
    start, new_start = was["ent_coef"], changes.get("ent_coef", was["ent_coef"])
    if _is_learned(new_start) and not _is_learned(start):
        raise ValueError(
            f"{path}: expected a number for ent_coef, as the file has a fixed temperature ({start}) "
            f"and nothing learned to go on with; found {new_start!r}. Leave it, or train a new agent."
        )
    if not _is_learned(new_start):  # a number fixes the temperatures, whatever they have learned with
        changes = {name: value for name, value in changes.items() if known[name].role.learned != "temperatures"}
    for name, value in changes.items():
        if (what := known[name].role.learned) and value != was[name]:
            raise ValueError(
                f"{path}: {what} learned with {name}={was[name]!r}; found {value!r}. Leave it, or train a new agent."
            )


def _is_learned(coefficient: Any) -> bool:
    return str(coefficient).startswith("auto")
