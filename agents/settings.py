"""Turn MTSAC's settings into objects, and refuse settings and environments that cannot work."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

import mtrl
from agents.collecting.replay import check_high_reward
from agents.learning.returns import RETURN_SCALES
from agents.networks.values import Reduction


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


def build_aggregator(given: str | mtrl.Aggregator, options: Mapping[str, Any] | None, seed: int) -> mtrl.Aggregator:
    """The aggregator of that name with its options, or a copy of the instance given: two networks share no state.

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


def describe_aggregator(aggregator: mtrl.Aggregator) -> tuple[str, dict[str, Any]]:
    """Name and options from which `build_aggregator` makes the same method.

    :raises ValueError: if no name leads to the method, so that a file could not name it.
    """
    return mtrl.name_of(aggregator), aggregator.hyperparameters()


def looks_back(aggregator: mtrl.Aggregator) -> bool:
    """Whether the method wants to see the losses after the step, which costs another forward pass."""
    return type(aggregator).after_step is not mtrl.Aggregator.after_step


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
    check_high_reward(settings["high_reward_fraction"], settings["high_reward_candidates"])
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


def envs_per_task(env: Any) -> int:
    """E, where the environment says so; else every column is a task of its own."""
    return getattr(env, "envs_per_task", 1)


def task_names(env: Any) -> tuple[str, ...]:
    """The T names of the environment's tasks, or task-0, task-1, ...; none without an environment.

    :raises ValueError: unless each of the columns c is of task c mod T.
    """
    if env is None:
        return ()
    copies, names = envs_per_task(env), getattr(env, "task_names", None)
    names = tuple(names or (f"task-{i}" for i in range(env.num_envs // copies)))
    if env.num_envs != copies * len(names):
        raise ValueError(
            f"Expected {copies} columns for each of {len(names)} tasks ({', '.join(names)}); the environment has "
            f"{env.num_envs} columns. Let its task_names and envs_per_task agree with its num_envs."
        )
    return names


def check_columns(env: Any, names: tuple[str, ...], copies: int) -> None:
    """Refuse an environment of other columns than `copies` for each of the tasks `names`.

    :raises ValueError: saying what the agent was built for, and what was found.
    """
    found = getattr(env, "task_names", None)
    if found is not None and tuple(found) != names:
        raise ValueError(f"This agent was built for the tasks {names}, the environment has {found}.")
    num_envs, found_copies = getattr(env, "num_envs", 1), envs_per_task(env)
    if (num_envs, found_copies) != (copies * len(names), copies):
        raise ValueError(
            f"This agent was built for {len(names)} tasks with {copies} environments each, the environment has "
            f"{num_envs} columns, {found_copies} for each task. MTSAC.load(path, env) takes any number."
        )


def check_kind(env: Any) -> None:
    """Refuse Gymnasium's own vector environments, which Stable-Baselines3 does not take.

    :raises ValueError: saying what to make instead.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ValueError(
            f"Expected a vector environment of Stable-Baselines3, found Gymnasium's {type(env).__name__}. "
            'envs.make("MT10", seed) makes Meta-World\'s, envs.from_gymnasium any list of environments.'
        )


def check_env(env: VecEnv) -> None:
    """Refuse an environment whose observations cannot end in the tasks' one-hot, or whose actions cannot be scaled.

    :raises ValueError: saying what was expected and found.
    """
    if unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "VecNormalize mixes the tasks' statistics and changes the one-hot columns. Give the environment "
            "without it; use reward_scale for rewards of different size."
        )
    shape, num_tasks = env.observation_space.shape or (), len(task_names(env))
    if len(shape) != 1 or shape[0] <= num_tasks:
        raise ValueError(
            f"Expected flat observations whose last {num_tasks} columns are the task's one-hot; found the space "
            f"{env.observation_space}. envs.from_gymnasium adds the columns to any list of environments."
        )
    actions = env.action_space
    assert isinstance(actions, spaces.Box)  # Stable-Baselines3 has refused others
    with np.errstate(over="ignore", invalid="ignore"):
        size = actions.high.astype(np.float32) - actions.low.astype(np.float32)
    if not np.issubdtype(actions.dtype, np.floating) or size.ndim != 1 or not np.all((size > 0) & (size < np.inf)):
        raise ValueError(
            f"Expected a flat action space of real numbers, each between two bounds that float32 can tell apart; found "
            f"{actions}. gymnasium.wrappers.TransformAction and RescaleAction change an environment's."
        )


def check_one_hot(observations: np.ndarray, num_tasks: int) -> None:
    """Refuse observations (E T, D) whose last T columns are not the identity, E times.

    :raises ValueError: showing the columns found.
    """
    one_hot = observations[:, -num_tasks:]
    rows = np.arange(len(observations))
    if not np.array_equal(one_hot, np.eye(num_tasks)[rows % num_tasks]):
        raise ValueError(
            f"Expected the last {num_tasks} observation columns to be the identity (row i: task i mod {num_tasks}); "
            f"found\n"
            f"{one_hot}\nenvs.make and envs.from_gymnasium give such observations."
        )
