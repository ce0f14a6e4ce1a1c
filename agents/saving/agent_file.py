"""Agents as files without pickle: what a file holds of an agent, and how an agent is made of it again."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.utils import get_device, get_system_info

from agents.arguments import LIVE, refuse_unknown
from agents.environment import envs_per_task
from agents.fields import settings_of
from agents.learning.aggregation import describe_aggregator
from agents.learning.guard import NonFiniteError
from agents.saving.changes import AGGREGATORS, check_changes
from agents.saving.state_file import StateFileError, damage_told, is_path, read_state, write_state
from agents.settings import AgentSettings, drop_removed

# What a file names beside the settings; no file says where we write, how much we print, or on what we run.
OF_FILES = {"policy", "policy_kwargs", *AGGREGATORS, *(f"{name}_kwargs" for name in AGGREGATORS)}
MODULES = ("policy", "actor.optimizer", "critic.optimizer", *AGGREGATORS, "return_scale", "ent_coef_optimizer")


def save(agent: Any, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
    """Write networks, optimizers, temperatures, aggregators, counters and settings to a file without pickle.

    Replay buffer and environment are not in it; `agents.save_checkpoint` writes all.

    :param path: ".zip" is added; or a binary file that is open.
    :raises NonFiniteError: if training has broken down: a good file is not overwritten by a bad one.
    :raises ValueError: if `exclude` or `include` is given: this format has no optional parts.
    """
    if exclude or include:
        raise ValueError("MTSAC.save has no optional parts; export_sb3 takes exclude and include.")
    agent.guard.check()
    if not all(parameter.isfinite().all() for parameter in agent.policy.parameters()):
        raise NonFiniteError(None, "policy's output", agent._n_updates)
    write_state(with_zip(path), "agent", {"settings": settings_state(agent), "state": training_state(agent)})


def load(
    kind: Any,
    path: Any,
    env: Any,
    device: torch.device | str,
    changes: dict[str, Any],
    force_reset: bool = True,
    run_code: bool = False,
) -> Any:
    """Load an agent of the class `kind` from a file of `save`; it can act, and with an environment go on learning.

    :param path: ".zip" may be left out; or a binary file that is open.
    :param env: with the tasks of the file; the number of environments per task may be another one.
    :param changes: constructor arguments to change, such as `learning_rate=1e-4`. Networks keep their weights, also
        with `policy=`, which an agent with a policy class of its own needs: files hold no code.
    :param force_reset: begin with a reset of `env` at the next `learn`.
    :param run_code: allow the aggregator to be a class in a Python file, which is run. Else give another one:
        `aggregator="mean", critic_aggregator="mean"` for acting.
    :raises FileNotFoundError: if there is no such file.
    :raises StateFileError: if the file is damaged, foreign or a pickle, or needs a policy class that was not given.
    :raises TypeError: if a change is no argument of the constructor (`check_load`).
    :raises ValueError: if an aggregator is a class in a file, and `run_code` is not set; if a change does not fit.
    """
    device, path = get_device(device), existing(path)
    saved = read_state(path, "agent")
    with damage_told(path):
        settings = drop_removed(saved["settings"], path)
        observations, actions = (spaces.Box(b["low"], b["high"], dtype=b["low"].dtype) for b in settings.pop("spaces"))
        # until version 0.2 a file did not say so
        algorithm = settings.pop("algorithm", "mtsac" if AGGREGATORS[0] in settings else "independent")
        task_names, copies = tuple(settings.pop("task_names")), settings.pop("envs_per_task", 1)
        if unknown := settings.keys() - OF_FILES - settings_of(AgentSettings).keys():
            raise ValueError(f"it has settings that no agent has: {', '.join(sorted(unknown))}")
        settings = {**settings, "policy_kwargs": dict(settings["policy_kwargs"])}
        files = {name: str(settings[name]) for name in (*AGGREGATORS, "policy") if name in settings}
    if algorithm != kind.algorithm:
        raise StateFileError(f"{path} holds no {kind.__name__}: load it with the class that saved it.")
    check_changes(kind, path, settings, files, changes, run_code)
    if "policy_kwargs" in changes:  # some of them: the others stay
        changes["policy_kwargs"] = {**settings["policy_kwargs"], **(changes["policy_kwargs"] or {})}
    for name in AGGREGATORS:
        if name in changes:
            settings.pop(f"{name}_kwargs", None)  # options of the saved method are not options of another
    with damage_told(path, changes):
        agent = kind(**{**settings, **changes}, env=None, device=device, _init_setup_model=False)
        agent.set_up_for(observations, actions, task_names, copies if env is None else envs_per_task(env))
        load_training_state(agent, saved["state"], skip=[name for name in AGGREGATORS if name in changes])
        if "reset_at" in changes and agent.settings.reset_at:  # trained networks do not begin anew for what is past
            agent.rounds.pass_resets(agent.steps_per_task)
    if env is not None:
        agent.set_env(env, force_reset)
    return agent


def check_load(
    kind: Any, changes: Mapping[str, Any], custom_objects: Any, print_system_info: bool, trust: bool
) -> None:
    """Refuse arguments of `MTSAC.load` that go with no file.

    :raises TypeError: if a change is no argument of the constructor.
    :raises ValueError: if it cannot change in the format that is asked for.
    """
    own = inspect.signature(kind).parameters.keys() - {"env", "device", "settings", "_init_setup_model"}
    refuse_unknown(f"{kind.__name__}.load", changes, own)
    if trust:
        if others := changes.keys() - {"tensorboard_log", "verbose", "capture", "compile"}:
            raise ValueError(
                f"{', '.join(others)} cannot change with trust=True: load the file as it is, save it, load that."
            )
        return
    if print_system_info:
        get_system_info()
    if custom_objects:
        raise ValueError(
            "custom_objects replaces what a pickle cannot rebuild, and this format holds none. Give what is to "
            "change as arguments: MTSAC.load(path, learning_rate=1e-4)."
        )


@contextmanager
def of_this_version(path: Any) -> Iterator[None]:
    """Inside, the file at `path` is read as what `export_sb3` of this version wrote.

    :raises StateFileError: if it lacks what that holds.
    """
    try:
        yield
    except (KeyError, AttributeError, ImportError) as error:
        raise StateFileError(
            f"{path}: expected what export_sb3 of this version writes; found: {error}. Load it with the "
            "version that wrote it, and write it with `save`, whose files open in all versions since."
        ) from error


def settings_state(agent: Any) -> dict[str, Any]:
    """Return what the agent was made with, as JSON values: settings, names of its parts, and what it learns on."""
    named: dict[str, Any] = {}
    now = *LIVE, "target_entropy"  # "auto" is settled
    for role in AGGREGATORS if hasattr(agent, AGGREGATORS[0]) else ():
        named[role], named[f"{role}_kwargs"] = describe_aggregator(getattr(agent, role))
    return {
        **replace(agent.settings, **{name: getattr(agent, name) for name in now}).to_json(),
        **named,
        "algorithm": agent.algorithm,
        "policy": policy_name(agent),
        "policy_kwargs": {k: v for k, v in agent.policy_kwargs.items() if k != "num_tasks"},
        "task_names": list(agent.task_names),
        "envs_per_task": agent.envs_per_task,
        "spaces": [{"low": box.low, "high": box.high} for box in (agent.observation_space, agent.action_space)],
    }


def policy_name(agent: Any) -> str:
    """Return the alias of the policy's class; without one, "module:Class", for the reader only: nothing is imported."""
    kind = agent.policy_class
    aliases = [name for name, known in agent.policy_aliases.items() if known is kind]
    return aliases[0] if aliases else f"{kind.__module__}:{kind.__qualname__}"


def training_state(agent: Any) -> dict[str, Any]:
    """Everything that training changes, but buffer, environment and generators."""
    return {
        "modules": {name: module.state_dict() for name, module in _modules(agent).items()},
        "log_ent_coef": agent.log_ent_coef,
        "counters": agent.counters(),
        **agent.task_metrics.state_dict(),
    }


def load_training_state(agent: Any, state: Mapping[str, Any], skip: Sequence[str] = ()) -> None:
    """Go on from `training_state`.

    :param skip: modules that are new.
    """
    for name, module in _modules(agent).items():
        if name not in skip:
            module.load_state_dict(with_own_options(module, state["modules"][name]))
    if agent.log_ent_coef is not None:
        with torch.no_grad():
            agent.log_ent_coef.copy_(state["log_ent_coef"])
        agent.update.temperatures.hold()
    agent.load_counters(state["counters"])
    agent.task_metrics.load_state_dict(state, agent.device)


def with_own_options(module: Any, state: Any) -> Any:
    """Return a saved state; that of an optimizer with the options that the optimizer has now, such as weight decay."""
    if not isinstance(module, torch.optim.Optimizer):
        return state
    groups = zip(state["param_groups"], module.state_dict()["param_groups"], strict=True)
    return {**state, "param_groups": [{**own, "params": saved["params"]} for saved, own in groups]}


def set_parameters(agent: Any, load_path_or_dict: Any, *args: Any, **kwargs: Any) -> None:
    """As Stable-Baselines3's; a file is one of `save`, whose networks, optimizers and aggregators are taken.

    And the units of the critics, if the agent has the same `return_scale`.

    :raises StateFileError: if the file is damaged, foreign or a pickle, or of other tasks.
    """
    if isinstance(load_path_or_dict, dict):
        SAC.set_parameters(agent, load_path_or_dict, *args, **kwargs)
        return
    path = existing(load_path_or_dict)
    saved = read_state(path, "agent")
    with damage_told(path):
        modules, settings = saved["state"]["modules"], saved["settings"]
        _check_tasks(agent, path, settings)
        names = [name for name in agent._get_torch_save_params()[0] if name in modules]
        given = {name: with_own_options(attrgetter(name)(agent), modules[name]) for name in names}
    SAC.set_parameters(agent, given, *args, **kwargs)
    if settings["return_scale"] == agent.settings.return_scale:
        agent.return_scale.load_state_dict(modules["return_scale"])
        agent.return_scale.cut()  # episodes that run there do not run here


def save_buffer(agent: Any, path: Any) -> None:
    """Write the filled part of the replay buffer to a file of its own; `path` as in `save`."""
    state = {**agent.replay_buffer.state_dict(), "task_names": list(agent.task_names)}
    write_state(with_zip(path), "buffer", state)


def load_buffer(agent: Any, path: Any, truncate_last_traj: bool = True) -> None:
    """Read a replay buffer that `save_replay_buffer` wrote.

    :param truncate_last_traj: let no sum of rewards go on from the newest rows.
    :raises StateFileError: if the file is damaged, foreign or a pickle, or of other tasks.
    """
    path = existing(path)
    state = read_state(path, "buffer")
    with damage_told(path):
        _check_tasks(agent, path, state)
        agent.replay_buffer.load_state_dict(state)
    if truncate_last_traj:
        agent.replay_buffer.cut()


def _check_tasks(agent: Any, path: Any, saved: Mapping[str, Any]) -> None:
    names = saved.get("task_names")  # a buffer's file did not say so at first
    if names is not None and tuple(names) != agent.task_names:
        raise StateFileError(
            f"{path}: expected the tasks of this agent, in their order: {', '.join(agent.task_names)}; found "
            f"{', '.join(map(str, names))}. Load it into an agent with the same tasks."
        )


def _modules(agent: Any) -> dict[str, Any]:
    """Everything with a `state_dict`, by dotted name."""
    found = {name: attrgetter(name)(agent) for name in getattr(agent, "modules", MODULES)}
    return {name: module for name, module in found.items() if module is not None}  # of fixed temperatures, optimizers


def with_zip(path: Any) -> Any:
    """Return the path to write to; an open file stays."""
    if not is_path(path):
        return path
    path = Path(path)
    return path if path.suffix == ".zip" else path.with_name(path.name + ".zip")


def existing(path: Any) -> Any:
    """Return the path to read from: as it is, or with ".zip"; an open file stays.

    :raises FileNotFoundError: if there is neither, saying what is there.
    """
    if not is_path(path) or Path(path).is_file():
        return path
    found = with_zip(path)
    if not found.is_file():
        inside = ", ".join(sorted(file.name for file in Path(path).glob("*.zip"))) or "no zip"
        folder = f" {path} is a folder, with {inside} in it: give a file." if Path(path).is_dir() else ""
        raise FileNotFoundError(f"There is no file {found}.{folder}")
    return found
