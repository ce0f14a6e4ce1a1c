"""Checkpoints: a folder per step that holds everything a training run needs to go on as if it had not stopped."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from agents.mtsac import MTSAC
from agents.saving.atomic import sync, whole_file
from agents.saving.state_file import StateFileError, damage_told, read_state, write_state
from agents.settings import AHEAD_REMOVED

STEP = re.compile(r"step_(\d{9,})(\.old)?$")
SUMS = "SHA256SUMS"  # as `sha256sum` writes and checks it
_LONGEST_SUMS = 2**16  # characters; three lines of ours are some hundred


def save_checkpoint(folder: str | Path, agent: MTSAC, env: VecEnv) -> Path:
    """Write agent, replay buffer, environment and generator states to `folder`/step_<env steps per task>.

    The folder appears whole or not at all, with the checksums of its files in SHA256SUMS. `env` offers `get_state`
    (all of ours do). In a callback's `_on_step` and after `learn` every step that was made is stored.

    :raises TypeError: if the environment has no `get_state`.
    :raises RuntimeError: if a step is made and not stored, as at a callback's `_on_rollout_start`.
    :raises NonFiniteError: if training has broken down: then nothing is written.
    :raises OSError: if the disk is full; the checkpoints of before are still there.
    """
    final = Path(folder) / f"step_{agent.steps_per_task:09d}"
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _require_state(env)
    agent.settle()
    if agent.collection.pending:
        raise RuntimeError("expected every step to be stored, found one that is not; save in a callback's _on_step")
    try:
        agent.save(partial / "agent.zip")
        agent.save_replay_buffer(partial / "buffer.zip")
        state = {"env": env.get_state(), "generators": rng_state(agent)}  # type: ignore[attr-defined]
        write_state(partial / "loop.zip", "loop", state)
        with whole_file(partial / SUMS) as file:
            file.write(sums(sorted(partial.glob("*.zip"))))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    old = final.with_name(final.name + ".old")  # the same step saved again: until the new one is there, this counts
    if final.exists():
        _delete(old)
        final.rename(old)
    partial.rename(final)
    sync(folder)
    _delete(old)
    return final


def checkpoints(folder: str | Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    found = ((STEP.search(path.name), path) for path in Path(folder).glob("step_*"))
    return [path for *_, path in sorted((int(match[1]), match[2] is None, path) for match, path in found if match)]


def latest_checkpoint(folder: str | Path) -> Path:
    """Return the newest checkpoint whose checksums hold; a warning names the damaged ones that are passed over.

    A training may write and delete checkpoints meanwhile: one that vanishes while it is looked at is not damaged.

    :raises FileNotFoundError: if there is none at all.
    :raises StateFileError: if all are damaged.
    """
    damage: list[StateFileError] = []
    for path in reversed(checkpoints(folder)):
        found = None
        try:
            check_sums(path)
        except (StateFileError, FileNotFoundError) as error:
            found = error if isinstance(error, StateFileError) else StateFileError(str(error))
        if not path.exists():
            return latest_checkpoint(folder)
        if found is None:
            for told in damage:
                warnings.warn(f"{told} Going back to {path.name}.", stacklevel=2)
            return path
        damage.append(found)
    if damage:
        raise damage[0]
    raise FileNotFoundError(f"There is no checkpoint in {folder}.")


def sums(paths: Iterable[Path]) -> bytes:
    """Return what SHA256SUMS holds: a line per file."""
    return b"".join(f"{_sha256(path)}  {path.name}\n".encode() for path in paths)


def check_sums(path: Path, pattern: str = "*.zip") -> None:
    """Compare the files of a checkpoint with its SHA256SUMS; one from before there were any passes.

    :param pattern: of the names of the files that it lists.
    :raises StateFileError: if a file is missing or was changed since it was written.
    """
    if not (path / SUMS).is_file():
        return
    with (path / SUMS).open(errors="replace") as file:
        lines = file.read(_LONGEST_SUMS).splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = sorted(file.name for file in path.glob(pattern))
    if changed := [name for name in files if expected.get(name) != _sha256(path / name)] or expected.keys() - {*files}:
        raise StateFileError(f"{path} is damaged: {', '.join(sorted(changed))} is not what {SUMS} says.")


def load_checkpoint(
    path: str | Path, env: VecEnv, device: str = "auto", kind: type[MTSAC] = MTSAC, **changes: Any
) -> MTSAC:
    """Load the agent of a checkpoint with its buffer, and put `env` back into the saved state.

    Go on with `agent.learn(remaining, reset_num_timesteps=False)`, and the run is the one that never stopped.

    :param kind: the class of the agent that was saved.
    :param changes: constructor arguments to change; `run_code` as in `MTSAC.load`.
    :raises StateFileError: if a file is damaged or foreign, or the environment has other tasks.
    :raises ValueError: if it was trained with `collect_ahead`, which versions before 0.2 had.
    :raises TypeError: if the environment has no `set_state`.
    """
    path = Path(path)
    _require_state(env)
    check_sums(path)
    state = read_state(path / "loop.zip", "loop")
    if "ahead" in state:
        raise ValueError(
            f"{path} was trained with collect_ahead and cannot go on: {AHEAD_REMOVED}. Its agent.zip opens, to act; to "
            "learn on, use the version that wrote it, or train anew."
        )
    agent = kind.load(path / "agent.zip", device=device, **changes)
    names = tuple(getattr(env, "task_names", agent.task_names))
    if names != agent.task_names:
        raise StateFileError(f"{path} was trained on {agent.task_names}; the environment has {names}.")
    agent.load_replay_buffer(path / "buffer.zip", truncate_last_traj=False)
    agent.set_env(env, force_reset=False)
    with damage_told(path / "loop.zip"):
        observations = np.asarray(env.set_state(state["env"]))  # type: ignore[attr-defined]
        set_rng_state(agent, state["generators"])
        agent.go_on_from(observations)
    return agent


def rng_state(agent: MTSAC) -> dict[str, Any]:
    """State of the generators that training draws from outside of the agent's own parts."""
    state = {"torch": torch.get_rng_state(), "action_space": agent.action_space.np_random.bit_generator.state}
    if agent.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(agent.device)
    return state


def set_rng_state(agent: MTSAC, state: Mapping[str, Any]) -> None:
    """Continue the random streams of `rng_state`."""
    torch.set_rng_state(state["torch"])
    agent.action_space.np_random.bit_generator.state = state["action_space"]
    if agent.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], agent.device)


def _require_state(env: VecEnv) -> None:
    if not hasattr(env, "get_state") or not hasattr(env, "set_state"):
        raise TypeError(
            f"a checkpoint holds the environment's state, and {type(env).__name__} offers no get_state and set_state; "
            "envs.make and envs.from_gymnasium do. agent.save and MTSAC.load do without an environment."
        )


def prune(folder: str | Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted write left."""
    for path in checkpoints(folder)[:-keep]:
        _delete(path)
    for path in Path(folder).glob("step_*.partial"):
        shutil.rmtree(path)


def checkpoint_bytes(agent: MTSAC, transitions: int) -> int:
    """Estimate the size of a checkpoint, but for some kilobytes of environments and counters.

    :param transitions: that the replay buffer then holds of each task.
    """
    trained = [*agent.actor.parameters(), *agent.critic.parameters()]
    networks = sum(p.nbytes for p in agent.policy.parameters()) + 2 * sum(p.nbytes for p in trained)  # Adam keeps two
    return networks + agent.replay_buffer.nbytes(transitions)


def _delete(path: Path) -> None:
    """Delete a checkpoint so that no half of it ever looks like a whole one."""
    if path.exists():
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # a process was killed in the next line
        shutil.rmtree(path.rename(partial))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
