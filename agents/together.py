"""Which settings make no sense together, or little."""

from __future__ import annotations

import warnings
from numbers import Real

from agents.fields import SettingError
from agents.settings import NetworkSettings, SACSettings


def check_together(settings: SACSettings, networks: NetworkSettings) -> None:
    """Refuse settings that make no sense together.

    :raises ValueError: saying what was expected, what was found, and why.
    """
    kind, coefficient, target = settings.return_scale, settings.ent_coef, settings.target_entropy
    if 0 < settings.high_reward_fraction * settings.batch_size <= 0.5:
        expected = f"0, or one row of batch_size={settings.batch_size} or more"
        raise SettingError("high_reward_fraction", expected, settings.high_reward_fraction)
    if settings.episode_batches and settings.high_reward_fraction:
        raise ValueError(
            "episode_batches takes a batch from one episode, and high_reward_fraction rows of high rewards from all: "
            "take one of them."
        )
    if kind != "none" and any(scale != 1 for scale in settings.reward_scale):
        raise ValueError(
            f"return_scale={kind!r} undoes any reward_scale: leave that at 1; found {settings.reward_scale!r}."
        )
    if kind != "none" and networks.conditioning == "goal":
        raise ValueError(
            f"return_scale={kind!r} gives each task a unit of its own, and networks with conditioning='goal' do not "
            "see which task it is: leave it at 'none', and bring returns to another size by reward_scale."
        )
    if kind == "brc" and settings.gamma == 1:
        raise ValueError("return_scale='brc' counts with the horizon 1 / (1 - gamma): gamma must be below 1.")
    if kind == "brc" and isinstance(target, Real) and target > 0:
        raise ValueError(f"return_scale='brc' takes a target_entropy of at most 0, or auto; found {target}.")
    if kind == "popart" and networks.critic_head != "scalar":
        raise ValueError(
            "return_scale='popart' moves the values, and the bins of critic_head="
            f"{networks.critic_head!r} stay where they are: take 'brc' with it, or critic_head='scalar'."
        )
    if kind == "popart" and not networks.multi_head:
        raise ValueError("return_scale='popart' rescales each task's own output layer: it needs multi_head.")
    learned = isinstance(coefficient, str) and coefficient.startswith("auto")
    if settings.loss_weighting == "temperature" and not learned and float(coefficient) == 0:
        raise ValueError("loss_weighting='temperature' weights by the temperatures: it needs an ent_coef above 0.")
    of_tasks = ("ent_coef_min", "ent_coef_max", "shared_temperature")
    for name in (*of_tasks, "goal_temperature"):
        if getattr(settings, name) and not learned:
            raise ValueError(f"{name} is for learned temperatures; ent_coef={coefficient!r} is a fixed one.")
    if 0 < settings.ent_coef_max <= settings.ent_coef_min:
        raise SettingError("ent_coef_max", f"more than ent_coef_min={settings.ent_coef_min}", settings.ent_coef_max)
    if settings.goal_temperature and not settings.episode_batches:
        raise ValueError(
            "goal_temperature is a function of the goal that a batch has: it needs episode_batches, with which that is "
            "one."
        )
    for name in of_tasks:
        if settings.goal_temperature and getattr(settings, name):
            raise ValueError(f"{name} is for temperatures of tasks; goal_temperature has none: take one of them.")
    if settings.loss_weighting == "temperature" and settings.shared_temperature:
        raise ValueError(
            "loss_weighting='temperature' weights by how the temperatures differ, and under shared_temperature they "
            "do not: take one of them."
        )
    if networks.actor_l2 and networks.weight_decay:
        raise ValueError("actor_l2 and weight_decay both shrink the actor's weights: take one of them.")
    if networks.log_std_min >= networks.log_std_max:
        raise SettingError("log_std_max", f"more than log_std_min={networks.log_std_min}", networks.log_std_max)


def warn_of_range(settings: SACSettings, networks: NetworkSettings, stacklevel: int = 4) -> None:
    """Warn of returns that a histogram may not reach, unless rewards are scaled by hand."""
    raw = settings.return_scale == "none" and all(scale == 1 for scale in settings.reward_scale)
    if networks.critic_head != "scalar" and raw:
        warnings.warn(
            f"critic_head={networks.critic_head!r} with return_scale='none': returns beyond its v_max "
            f"({networks.v_max}) all count as v_max; return_scale='brc' brings them into its range.",
            stacklevel=stacklevel,
        )
