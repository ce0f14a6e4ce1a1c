"""Refuse arguments of MTSAC that cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.collecting.replay import TaskReplayBuffer
from agents.fields import build, settings_of, taken_by
from agents.settings import AgentSettings, NetworkSettings, check_together, warn_of_range


def check_arguments(
    settings: AgentSettings,
    capture: Any,
    critic_aggregator: Any,
    critic_aggregator_kwargs: Any,
    policy_kwargs: Mapping[str, Any] | None,
    replay_buffer_kwargs: Mapping[str, Any] | None,
) -> None:
    """Refuse settings that make no sense together, and options that would have no effect where they stand.

    :raises ValueError: naming them.
    """
    groups = {"policy_kwargs": policy_kwargs or {}, "replay_buffer_kwargs": replay_buffer_kwargs or {}}
    of_buffer = taken_by(TaskReplayBuffer, vars(settings)).keys() - {"seed"}
    # settings, or facts about the environment, that MTSAC hands on
    handed = {"policy_kwargs": ("num_tasks", "use_sde"), "replay_buffer_kwargs": ("num_tasks", *of_buffer)}
    for group, names in handed.items():
        if given := [name for name in names if name in groups[group]]:
            raise ValueError(
                f"{group}: MTSAC sets {', '.join(given)} itself, from its arguments and its environment. Leave it out."
            )
    if critic_aggregator_kwargs and critic_aggregator is None:
        raise ValueError(
            f"critic_aggregator_kwargs={critic_aggregator_kwargs} are options of a critic_aggregator, and "
            "none is named: name it, or give aggregator_kwargs, for both networks."
        )
    if not isinstance(capture, bool):
        raise ValueError(f"capture is True or False, found {capture!r}.")
    networks = network_settings(groups["policy_kwargs"])
    check_together(settings, networks)
    warn_of_range(settings, networks, stacklevel=4)


def network_settings(policy_kwargs: Mapping[str, Any]) -> NetworkSettings:
    """The settings of the networks among the options of a policy, which may have others of its own."""
    return build(NetworkSettings, {k: v for k, v in policy_kwargs.items() if k in settings_of(NetworkSettings)})
