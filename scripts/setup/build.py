"""From a config to its environment and its agent."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich import filesize

import envs
from agents import MTSAC, keep_freed_memory
from agents.algorithms import ALGORITHMS
from agents.collecting.replay import TaskReplayBuffer
from agents.fields import settings_of, taken_by
from agents.settings import AgentSettings, NetworkSettings, Precision, SACSettings
from envs import find_benchmark, machine
from envs.benchmarks import TaskOptions
from envs.vec_env import TaskVecEnv
from scripts.common.usage import UsageError, check_folder, usage_errors
from scripts.setup.config import TrainConfig
from scripts.setup.trust import suite_code

LONG = {"cpu": 10_000, "cuda": 100_000}  # updates: compiling takes the time that so many gain
NO_COMPILER = "expected a C++ compiler, $CXX or g++; found none. Install g++."


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace `auto` by what this machine has, so that the saved config says what was used; fit this process to it.

    :raises UsageError: if CUDA, or what only CUDA has, is asked for and not there.
    """
    require_device(config.device)
    device: Literal["cpu", "cuda"] = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    capture = resolve_capture(config.capture, device)
    threads = min(torch.get_num_threads(), machine.cores()) if config.threads == "auto" else config.threads
    torch.set_num_threads(threads)
    keep_freed_memory()
    compile, precision = resolve_compile(config, device), resolve_precision(config, device)
    return replace(config, device=device, capture=capture, compile=compile, threads=threads, precision=precision)


def require_device(device: str) -> None:
    """Raise UsageError if CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("expected a CUDA device for --device cuda; torch finds none. Use --device cpu or auto.")


def resolve_capture(capture: Literal["auto"] | bool, device: str) -> bool:
    """Whether updates are captured: auto is yes on CUDA.

    :raises UsageError: for a capture on a CPU.
    """
    if capture == "auto":
        return device == "cuda"
    if capture and device != "cuda":
        asked = str(capture).lower()
        raise UsageError(f"--capture {asked}: expected a CUDA device, as graphs are CUDA's; found {device}. Use auto.")
    return capture


def resolve_compile(config: TrainConfig, device: str) -> bool:
    """Return whether updates are compiled.

    Auto is yes for `LONG` runs where there is a C++ compiler, on CUDA also Triton; if only the first is missing, warns.

    :raises UsageError: if they are to be and cannot.
    """
    has_triton = device == "cpu" or importlib.util.find_spec("triton") is not None
    if config.compile == "auto":
        updates = config.steps_per_task // config.train_freq * config.gradient_steps
        if updates < LONG[device] or not has_triton:
            return False
        if not find_compiler():
            warnings.warn(f"Updates are not compiled, so slower: {NO_COMPILER}", RuntimeWarning, stacklevel=2)
            return False
        return True
    if config.compile and not has_triton:
        raise UsageError("--compile true: expected Triton, which torch for CUDA on Linux brings; found none. Use auto.")
    if config.compile and not find_compiler():
        raise UsageError(f"--compile true: {NO_COMPILER}")
    return config.compile


def find_compiler() -> str | None:
    """Return the C++ compiler that compiled updates need."""
    return shutil.which(os.environ.get("CXX") or "g++")


def resolve_precision(config: TrainConfig, device: str) -> Precision:
    """Return the precision of the products: auto is bfloat16 on a CPU with avx512_bf16 or AMX, else float32."""
    if config.precision != "auto":
        return config.precision
    units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of torch; not public
    has_units = any(getattr(torch.cpu, name, lambda: False)() for name in units)
    return "bfloat16" if device == "cpu" and has_units else "float32"


def require_precision(precision: str, device: str) -> None:
    """Raise UsageError if TF32 is asked for and the device does not have it."""
    if precision == "tf32" and device != "cuda":
        raise UsageError(f"expected a CUDA device for precision tf32; found {device}. Use float32 or bfloat16.")


def run_path(config: TrainConfig) -> Path:
    """Where the run goes: --run-dir, or a name in `runs` that says what it is.

    :raises UsageError: for a name that could not be shown or written as it is.
    """
    if config.run_dir:
        return check_folder("--run-dir", config.run_dir)
    some = config.tasks if len(config.tasks) <= 3 else (f"{len(config.tasks)}-tasks",)
    method = re.sub(r"[^\w-]+", "-", config.method.rpartition("/")[2])  # torchjd:NAME, path/to/file.py:NAME
    suite = [re.sub(r"[^\w-]+", "-", code.rpartition("/")[2]) for code in suite_code(config)]
    parts = (*(["trial"] if config.trial else []), config.preset, *suite, *some, method, f"seed{config.seed}")
    return Path("runs", "-".join(parts))


def make_env(
    config: TrainConfig,
    goals: int | Mapping[str, np.ndarray],
    goal_order: Literal["random", "sequential"] = "random",
    takes_share: bool = False,
) -> TaskVecEnv:
    """Return the tasks of the config: goals in random order to train on; see `make_evaluation_env` for the other order.

    :param takes_share: this process steps columns, too, beside its workers.
    """
    with usage_errors():
        return envs.make(
            config.suite,
            config.seed,
            workers=config.workers,
            reward_version=config.reward_version,
            tasks=list(config.tasks) or None,
            goals=goals if isinstance(goals, int) else dict(goals),
            horizon=config.train_horizon or config.horizon,
            goal_order=goal_order,
            envs_per_task=config.envs_per_task,
            staggered=config.staggered_starts,
            takes_share=takes_share,
        )


def make_scene(config: TrainConfig, goals: Mapping[str, np.ndarray], name: str, goal: int, size: int) -> Any:
    """One task, by itself and in this process, at one of its goals; `render()` gives its pictures."""
    chosen = {task: vectors[goal : goal + 1] if len(vectors) > goal else vectors for task, vectors in goals.items()}
    tasks = list(config.tasks) or None
    options = TaskOptions(
        config.suite, tasks, config.seed, chosen, config.horizon, config.reward_version, "sequential", size
    )
    with usage_errors():
        specs = find_benchmark(config.suite).task_set(options).specs
        return next(spec for spec in specs if spec.name == name).build()


def make_evaluation_env(config: TrainConfig, goals: Mapping[str, np.ndarray], alone: bool = False) -> TaskVecEnv:
    """--eval-envs-per-task of each task, with whole episodes of --horizon steps, each goal once, in order.

    One where tasks have no goals to share out. Training may have a worker for each of its environments; here that are
    at most as many as there are environments.

    :param alone: no training in this process, so that it steps a share itself: "auto" keeps every core busy.
    """
    copies = config.eval_envs_per_task if find_benchmark(config.suite).orders_goals else 1
    workers, columns = config.workers, len(goals) * copies
    if workers == "auto" and alone:
        workers = min(machine.cores(), columns) - 1
    elif workers != "auto" and columns < workers <= len(goals) * config.envs_per_task:
        workers = columns
    config = replace(config, envs_per_task=copies, staggered_starts=False, train_horizon=0, workers=workers)
    return make_env(config, goals, "sequential", takes_share=alone)


def update_rounds(config: TrainConfig) -> tuple[int, int]:
    """MTSAC's `train_freq`, in vector steps, and `gradient_steps`: as many updates per step as the config says.

    A round comes where a vector step and a round of the config end together, with the updates of all since the last.
    """
    steps = math.lcm(config.train_freq, config.envs_per_task)
    return steps // config.envs_per_task, config.gradient_steps * (steps // config.train_freq)


def make_agent(config: TrainConfig, env: TaskVecEnv) -> MTSAC:
    """Return a new agent for the tasks of `env`.

    :raises UsageError: for settings that do not fit.
    """
    require_precision(config.precision, config.device)
    with usage_errors():
        capture, settings = resolve_capture(config.capture, config.device), agent_settings(config, env.num_tasks)
        kind = ALGORITHMS[config.algorithm].kind
        own = taken_by(kind, {"capture": capture, "compile": config.compile is True, **settings})
        shared = {name: settings[name] for name in settings_of(AgentSettings)}
        return kind("MlpPolicy", env, device=config.device, **{**shared, **own})


def agent_settings(config: TrainConfig, num_tasks: int) -> dict[str, Any]:
    """Return MTSAC's constructor arguments for this config: what the two call alike, and what is said otherwise."""
    train_freq, gradient_steps = update_rounds(config)
    actor, critic = (
        (name, getattr(config, f"{network}_aggregator_options"))
        if (name := getattr(config, f"{network}_aggregator"))
        else (config.aggregator, config.aggregator_options)
        for network in ("actor", "critic")
    )
    settings = AgentSettings.of(
        {
            **{name: getattr(config, name) for name in settings_of(SACSettings)},
            "train_freq": train_freq,
            "gradient_steps": gradient_steps,
            "learning_starts": config.warmup_steps * num_tasks,
            "seed": config.seed,
        }
    )
    return {
        **vars(settings),
        "aggregator": actor[0],
        "aggregator_kwargs": actor[1],
        "critic_aggregator": critic[0],
        "critic_aggregator_kwargs": critic[1],
        "policy_kwargs": {
            **{name: getattr(config, name) for name in settings_of(NetworkSettings)},
            "optimizer_kwargs": {"eps": config.adam_eps},
        },
    }


RESUMABLE = {name for name, setting in settings_of(TrainConfig).items() if setting.role.resume}


def require_settings(config: TrainConfig, saved: Mapping[str, Any], source: Path) -> None:
    """Raise UsageError if the config says otherwise than the settings of the agent that was trained.

    :param saved: what the agent was made with. Runs are compared by config.json, which must not say otherwise.
    """
    saved = {**saved, **vars(AgentSettings.of({n: saved[n] for n in settings_of(AgentSettings) if n in saved}))}
    asked, found = ({**s, **s["policy_kwargs"]} for s in (agent_settings(config, len(saved["task_names"])), saved))
    different = [
        f"{name} {asked[name]} there, {found[name]} trained"
        for name in (asked.keys() & found.keys()) - RESUMABLE - {"policy_kwargs"}
        if not _agrees(asked[name], found[name])
    ]
    if different:
        raise UsageError(
            f"expected a config.json that says how {source} was trained; they differ in "
            f"{', '.join(sorted(different))}. Put back what was trained, or train anew with other settings."
        )


def _agrees(asked: Any, found: Any) -> bool:
    """Whether a setting is what was found: `auto` was settled, a missing option had its default."""
    if isinstance(asked, dict):
        return all(name in found and _agrees(value, found[name]) for name, value in asked.items())
    if isinstance(asked, list | tuple):
        return list(asked) == list(found)
    return bool(asked == "auto" or asked == found)


def buffer_bytes(config: TrainConfig, env: TaskVecEnv) -> int:
    """Memory of the replay buffer once it is full."""
    (columns,), (actions,) = env.observation_space.shape or (), env.action_space.shape or ()
    return TaskReplayBuffer.bytes_needed(config.buffer_size, env.num_tasks, columns - env.num_tasks, actions)


def check_memory(config: TrainConfig, env: TaskVecEnv) -> None:
    """Raise UsageError if the full replay buffer is larger than the memory of the device that it lives on."""
    needed, there = buffer_bytes(config, env), machine.memory()
    if config.device == "cuda":
        there = torch.cuda.get_device_properties(0).total_memory
    if needed > there:
        raise UsageError(
            f"--buffer-size: expected a replay buffer that fits in memory; {config.buffer_size:,} transitions of each "
            f"of {env.num_tasks} tasks need {filesize.decimal(needed)}, there are {filesize.decimal(there)}. Keep "
            "fewer."
        )
