"""Is this machine fit for a preset, and does every part of a training work on it? One finding after the other."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.table import Table

from agents import MTSAC, NonFiniteError
from envs import WorkerError, find_benchmark, machine
from envs.vec_env import TaskVecEnv
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs.forecast import forecast
from scripts.runs.progress import ProgressBar
from scripts.runs.rendering import back_end
from scripts.setup.build import make_agent, make_env, make_evaluation_env, resolve
from scripts.setup.config import TrainConfig
from scripts.setup.resources import measure

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
_EXACT = find_benchmark("MT10").versions  # physics, resets and rewards are part of the protocol
_CORE = (*_EXACT, "torch", "gymnasium", "numpy", "stable_baselines3", "safetensors", "tyro", "rich")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `what` says what was found and, unless it is ok, what to do."""

    level: Literal["ok", "warning", "wrong"]
    about: str
    what: str


def examine(config: TrainConfig, steps: int, run_dir: Path, console: Screen) -> Iterator[Finding]:
    """Everything in turn; what cannot be looked at because something before is wrong is left out."""
    yield from software()
    yield rendering()
    yield cores()
    config = resolve(config)
    try:
        env = make_env(config, config.goals)
    except (WorkerError, UsageError) as error:
        yield Finding("wrong", "environments", str(error))
        return
    with contextlib.closing(env):
        agent = make_agent(config, env)
        yield from room(config, agent, env, run_dir)
        console.print(task_map(agent, env))
        yield columns(agent, env)
    yield from training(config, steps, console)


def software() -> Iterator[Finding]:
    """Python and the main packages against the versions that were tested together."""
    lines = CONSTRAINTS.read_text().splitlines() if CONSTRAINTS.is_file() else []
    tested = dict(line.lower().replace("-", "_").split("==") for line in lines if "==" in line)
    python = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("ok", "Python", python)
    else:
        yield Finding("wrong", "Python", f"{python}; expected 3.11, 3.12 or 3.13. Make a new environment: make train")
    others = []
    for name in _CORE:
        try:
            found = version(name).partition("+")[0]  # torch adds +cpu
        except PackageNotFoundError:
            yield Finding("wrong", name, "is not installed. Run: pip install -c constraints.txt -e .")
            continue
        if name in tested and found != tested[name]:
            if name in _EXACT:
                yield Finding(
                    "wrong",
                    name,
                    f"{found}; tested with {tested[name]}, and it is part of the protocol: "
                    f"pip install {name}=={tested[name]}",
                )
            others.append(f"{name} {found} (tested: {tested[name]})")
    if others:
        yield Finding(
            "warning", "packages", f"{', '.join(others)}. Numbers may differ: pip install -c constraints.txt -e ."
        )
    else:
        yield Finding("ok", "packages", "the versions that were tested together" if tested else "all there")


def rendering() -> Finding:
    """Whether `scripts.record` can film here; training renders nothing."""
    try:
        return Finding("ok", "rendering", f"{back_end()}; only scripts.record needs it")
    except UsageError as error:
        return Finding("warning", "rendering", f"{error} Only scripts.record needs it.")


def cores() -> Finding:
    """Cores that this process may use, and what would compute."""
    there = machine.cores()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    return Finding(
        "ok", "machine", f"{there} of {os.cpu_count()} cores, {device}, {torch.get_num_threads()} threads of torch"
    )


def room(config: TrainConfig, agent: MTSAC, env: TaskVecEnv, folder: Path) -> Iterator[Finding]:
    """Memory and disk of a whole run of the preset."""
    found = measure(config, agent, env.worker_pids, folder.resolve() / "a-new-run")
    for line in found.lines():
        yield Finding("warning" if "short" in line else "ok", "room", line)
    try:
        found.check()
    except UsageError as error:
        yield Finding("wrong", "room", str(error))


def task_map(agent: MTSAC, env: TaskVecEnv) -> Table:
    """Which column, temperature and head each task has."""
    table = Table(
        title="Task, its column of the environment, its temperature, its head", title_justify="left", box=None
    )
    for name in ("column", "task", "one-hot", "temperature", "head"):
        table.add_column(name)
    width = agent.observation_space.shape[0]  # type: ignore[index]
    for i, name in enumerate(env.task_names):
        head = f"{i}" if agent.actor.multi_head else "shared"
        table.add_row(
            str(i),
            name,
            f"observation[{width - env.num_tasks + i}]",
            "fixed" if agent.log_ent_coef is None else f"log_ent_coef[{i}]",
            head,
        )
    return table


def columns(agent: MTSAC, env: TaskVecEnv) -> Finding:
    """Whether what the table says is so."""
    temperatures = agent.log_ent_coef if agent.log_ent_coef is not None else agent.ent_coef_tensor
    observed = env.reset()[: env.num_tasks, -env.num_tasks :]
    heads = len(agent.actor.task_parameters()[0]) if agent.actor.multi_head else env.num_tasks
    alike = agent.task_names == env.task_names and len(temperatures) == heads == env.num_tasks
    if alike and np.array_equal(observed, np.eye(env.num_tasks)):
        return Finding("ok", "map", f"{heads} tasks, each with a column, a one-hot and a temperature")
    return Finding("wrong", "map", f"agent {agent.task_names}, {len(temperatures)} temperatures; report this as a bug")


def training(config: TrainConfig, steps: int, console: Screen) -> Iterator[Finding]:
    """Make a short training in which every task must have finite losses, a gradient, and a temperature that moves."""
    horizon, whole = min(config.horizon, steps // 4), config
    config = replace(
        config,
        horizon=horizon,
        train_horizon=min(config.train_horizon, horizon),
        warmup_steps=steps // 4,
        log_conflicts=10,
        buffer_size=steps,
        log_every=steps + 1,
    )
    with contextlib.closing(make_env(config, config.goals)) as env, tempfile.TemporaryDirectory() as folder:
        agent = make_agent(config, env)
        before = None if agent.log_ent_coef is None else agent.log_ent_coef.detach().clone()
        try:
            with contextlib.closing(ProgressBar(console, steps)) as bar:
                agent.learn(steps * env.num_tasks, callback=bar)
            agent.guard.check()
            agent.save(Path(folder) / "agent.zip")
        except (NonFiniteError, WorkerError) as error:
            yield Finding("wrong", "training", f"{error} This preset cannot train here: report it with this output.")
            return
    metrics = agent.metrics()
    for what, name in (("loss of the critic", "critic_loss"), ("loss of the actor", "actor_loss")):
        bad = [task for task in env.task_names if not math.isfinite(metrics.get(f"train/{name}/{task}", math.nan))]
        yield _verdict(what, "finite", bad)
    for network in ("critic", "actor"):
        bad = [task for task in env.task_names if not metrics.get(f"train/{network}_norms/{task}", 0.0) > 0]
        yield _verdict(f"gradient of the {network}", "above zero", bad)
    if before is not None and agent.log_ent_coef is not None:
        moved = (agent.log_ent_coef.detach() != before).tolist()
        bad = [task for task, has in zip(env.task_names, moved, strict=True) if not has]
        yield _verdict("temperature", "one that moves", bad)
    with contextlib.closing(make_evaluation_env(whole, env.goals)) as evaluation_env:
        yield Finding("ok", "time", f"a whole run: {forecast(whole, evaluation_env)}")


def _verdict(what: str, expected: str, bad: Sequence[str]) -> Finding:
    if bad:
        return Finding("wrong", what, f"expected {expected} for every task; not so for {', '.join(bad)}. Report this.")
    return Finding("ok", what, f"{expected} for every task")
