"""Refuse settings of MTSAC that cannot work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from agents.fields import check_fields
from agents.learning.returns import RETURN_SCALES
from agents.settings import ARS_REMOVED, Reduction, SACSettings


def named_schedule(learning_rate: float | str) -> float | Schedule:
    """A number stays; "linear:3e-4" falls from 3e-4 to 0 over the run.

    Names instead of functions, because a saved agent holds no code.

    :raises ValueError: for anything else.
    """
    if isinstance(learning_rate, Real) and _is_positive(learning_rate):
        return float(learning_rate)
    if isinstance(learning_rate, str) and learning_rate.startswith("linear:"):
        start = learning_rate.removeprefix("linear:")
        if _is_positive(start):
            return LinearSchedule(float(start), 0.0, 1.0)
    raise ValueError(f'learning_rate is a positive number or a named schedule "linear:3e-4", found {learning_rate!r}.')


def _is_positive(value: Any) -> bool:
    """Whether it is, or spells, a finite number above 0."""
    try:
        return 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot work.

    :raises ValueError: naming the setting, what was expected and what was found.
    """
    whole = "buffer_size batch_size train_freq gradient_steps n_steps policy_delay noise_hold log_every"
    for name in (*whole.split(), "target_update_interval", "stats_window_size"):
        if not isinstance(settings[name], Integral) or settings[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {settings[name]!r}.")
    if not isinstance(settings["collect_ahead"], Integral) or settings["collect_ahead"] < 0:
        raise ValueError(
            f"collect_ahead must be a whole number of vector steps, 0 for none; found {settings['collect_ahead']!r}."
        )
    for name in ("learning_starts", "log_conflicts"):
        if not settings[name] >= 0:
            raise ValueError(f"{name} must not be negative, found {settings[name]}.")
    if not isinstance(settings["capture"], Integral) or settings["capture"] < 0:
        raise ValueError(f"capture is True, False or a number of updates, found {settings['capture']!r}.")
    if not 0 <= settings["gamma"] <= 1:
        raise ValueError(f"gamma must lie in [0, 1], found {settings['gamma']}.")
    if not 0 < settings["tau"] <= 1:
        raise ValueError(f"tau must lie in (0, 1], found {settings['tau']}: with 0 the target critics never move.")
    if settings["max_grad_norm"] is not None and not _is_positive(settings["max_grad_norm"]):
        raise ValueError(f"max_grad_norm must be positive, or None for no clipping; found {settings['max_grad_norm']}.")
    seed = settings["seed"]
    if seed is not None and (not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32):
        raise ValueError(f"seed is a whole number of 0 to 2**32 - 1, or None; found {seed!r}.")
    check_apart(settings)
    check_fields(SACSettings, {n: settings[n] for n in ("high_reward_fraction", "high_reward_candidates")})
    if 0 < settings["high_reward_fraction"] * settings["batch_size"] <= 0.5:
        raise ValueError(
            f"high_reward_fraction={settings['high_reward_fraction']} of batch_size={settings['batch_size']} is not "
            "one row: raise one of them, or leave the fraction at 0."
        )
    check_values(settings)
    if settings["loss_weighting"] not in ("none", "temperature"):
        raise ValueError(f"loss_weighting is 'none' or 'temperature', found {settings['loss_weighting']!r}.")


# Arguments of MTSAC, or facts about its environment, that it hands to the policy and to the replay buffer.
_GIVEN = {
    "policy_kwargs": ("num_tasks", "use_sde"),
    "replay_buffer_kwargs": ("num_tasks", "n_steps", "gamma", "high_reward_fraction", "high_reward_candidates"),
}


def check_apart(settings: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect where they stand.

    :raises ValueError: naming them.
    """
    for group, names in _GIVEN.items():
        if given := [name for name in names if name in (settings[group] or {})]:
            raise ValueError(
                f"{group}: MTSAC sets {', '.join(given)} itself, from its arguments and its environment. Leave it out."
            )
    if settings["critic_aggregator_kwargs"] and settings["critic_aggregator"] is None:
        raise ValueError(
            f"critic_aggregator_kwargs={settings['critic_aggregator_kwargs']} are options of a critic_aggregator, and "
            "none is named: name it, or give aggregator_kwargs, for both networks."
        )


def check_values(settings: Mapping[str, Any]) -> None:
    """Refuse settings of value learning that make no sense, alone or together.

    :raises ValueError: saying what was expected, what was found, and why.
    """
    kind, policy = settings["return_scale"], settings["policy_kwargs"] or {}
    histogram = policy.get("critic_head", "scalar") != "scalar"
    if kind == "ars":
        raise ValueError(ARS_REMOVED)
    if kind not in RETURN_SCALES:
        raise ValueError(f"return_scale is one of {', '.join(RETURN_SCALES)}; found {kind!r}.")
    if settings["critic_reduction"] not in get_args(Reduction):
        raise ValueError(f"critic_reduction is 'min' or 'mean', found {settings['critic_reduction']!r}.")
    scales = np.ravel(settings["reward_scale"]).tolist()
    if not all(map(_is_positive, scales)):
        raise ValueError(f"reward_scale takes finite factors above 0, found {settings['reward_scale']!r}.")
    if kind != "none" and any(scale != 1 for scale in scales):
        raise ValueError(
            f"return_scale={kind!r} undoes any reward_scale: leave that at 1; found {settings['reward_scale']!r}."
        )
    if kind == "brc" and settings["gamma"] == 1:
        raise ValueError("return_scale='brc' counts with the horizon 1 / (1 - gamma): gamma must be below 1.")
    target, coefficient = settings["target_entropy"], settings["ent_coef"]
    if target != "auto" and not (isinstance(target, Real) and math.isfinite(target)):
        raise ValueError(f"target_entropy is 'auto' or a finite number, found {target!r}.")
    learned = isinstance(coefficient, str) and coefficient.startswith("auto")
    start = coefficient.removeprefix("auto_") if learned else coefficient
    if coefficient != "auto" and not _is_positive(start) and not (isinstance(coefficient, Real) and coefficient == 0):
        raise ValueError(
            "ent_coef is 'auto', 'auto_X' with a finite X above 0, or a finite number of at least 0; found "
            f"{coefficient!r}."
        )
    if coefficient == 0 and settings["loss_weighting"] == "temperature":
        raise ValueError("loss_weighting='temperature' weights by the temperatures: it needs an ent_coef above 0.")
    if kind == "brc" and target != "auto" and target > 0:
        raise ValueError(f"return_scale='brc' takes a target_entropy of at most 0, or auto; found {target}.")
    if kind == "popart" and histogram:
        raise ValueError(
            "return_scale='popart' moves the values, and the bins of critic_head="
            f"{policy['critic_head']!r} stay where they are: take 'brc' with it, or critic_head='scalar'."
        )
    if kind == "popart" and not policy.get("multi_head"):
        raise ValueError("return_scale='popart' rescales each task's own output layer: it needs multi_head.")
    if histogram and kind == "none":
        warnings.warn(
            f"critic_head={policy['critic_head']!r} with return_scale='none': returns beyond its v_max "
            f"({policy.get('v_max', 10.0)}) all count as v_max; return_scale='brc' brings them into its range.",
            stacklevel=4,
        )
    if not 0 <= settings["ent_coef_min"] < math.inf:
        raise ValueError(f"ent_coef_min must be 0 or more, found {settings['ent_coef_min']}.")
    if settings["ent_coef_min"] and not learned:
        raise ValueError(f"ent_coef_min bounds learned temperatures; ent_coef={coefficient!r} is a fixed one.")
    resets = list(settings["reset_at"])
    if resets != sorted({step for step in resets if isinstance(step, int) and step > 0}):
        raise ValueError(f"reset_at takes growing whole numbers of steps above 0, found {settings['reset_at']!r}.")
