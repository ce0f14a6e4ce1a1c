"""Checkpoints: a folder per step that holds everything a training run needs to go on as if it had not stopped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from agents.mtsac import MTSAC
from agents.state_file import StateFileError, damage_told, read_state, write_state

STEP = re.compile(r"step_(\d{9})$")


def save_checkpoint(folder: str | Path, agent: MTSAC, env: VecEnv) -> Path:
    """Write agent, replay buffer, environment and generator states to `folder`/step_<env steps per task>.

    The folder appears whole or not at all. `env` offers `get_state` (all of ours do); nothing may be pending in it,
    which holds inside callbacks and after `learn`.

    :raises NonFiniteError: if training has broken down: then nothing is written.
    """
    final = Path(folder) / f"step_{agent.steps_per_task:09d}"
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    agent.save(partial / "agent.zip")
    agent.save_replay_buffer(partial / "buffer.zip")
    state = {"env": env.get_state(), "generators": agent.rng_state()}  # type: ignore[attr-defined]
    write_state(partial / "loop.zip", "loop", state)
    old = final.with_name(final.name + ".old.partial")  # the same step saved again: the old one goes last
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(folder: str | Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    folder = Path(folder)
    return sorted(path for path in folder.glob("step_*") if STEP.search(path.name)) if folder.is_dir() else []


def latest_checkpoint(folder: str | Path) -> Path:
    """The newest complete checkpoint.

    :raises FileNotFoundError: if there is none.
    """
    found = checkpoints(folder)
    if not found:
        raise FileNotFoundError(f"There is no checkpoint in {folder}: the run ended before its first one.")
    return found[-1]


def load_checkpoint(path: str | Path, env: VecEnv, device: str = "auto", **changes: Any) -> MTSAC:
    """The agent of a checkpoint with its buffer, `env` put back into the saved state: go on with
    `agent.learn(remaining, reset_num_timesteps=False)`, and the run is the one that never stopped.

    :param changes: constructor arguments to change; `run_code` as in `MTSAC.load`.
    :raises StateFileError: if a file is damaged or foreign, or the environment has other tasks.
    """
    path = Path(path)
    agent = MTSAC.load(path / "agent.zip", device=device, **changes)
    names = tuple(getattr(env, "task_names", agent.task_names))
    if names != agent.task_names:
        raise StateFileError(f"{path} was trained on {agent.task_names}; the environment has {names}.")
    agent.load_replay_buffer(path / "buffer.zip")
    state = read_state(path / "loop.zip", "loop")
    agent.set_env(env, force_reset=False)
    with damage_told(path / "loop.zip"):
        agent._last_obs = np.asarray(env.set_state(state["env"]))  # type: ignore[attr-defined]
        agent.set_rng_state(state["generators"])
    return agent


def prune(folder: str | Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted write left."""
    for path in checkpoints(folder)[:-keep]:
        shutil.rmtree(path)
    for path in Path(folder).glob("step_*.partial"):
        shutil.rmtree(path)
