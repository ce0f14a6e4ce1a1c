"""The trained agent in the folder of a run: the file that holds it, and what to do where there is none."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from agents.algorithms import ALGORITHMS
from scripts.common.usage import UsageError, usage_errors

if TYPE_CHECKING:  # importing this needs neither torch nor Stable-Baselines3
    from agents import MTSAC, TrainedActor

ACTOR = "actor.safetensors"  # of a run that was shared
BEST = "checkpoints/best.zip"


def load_agent(folder: Path, algorithm: str, best: bool, device: str) -> tuple[Path, MTSAC | TrainedActor]:
    """Return the file of an agent to act with, and the agent; the next one where a training replaces it meanwhile.

    :param algorithm: a name in `ALGORITHMS`.
    :param best: that of the best evaluation during training instead.
    :raises UsageError: if there is none, or it is damaged.
    """
    from agents import load_actor
    from agents.saving.checkpoint import check_sums

    row, path = ALGORITHMS[algorithm], agent_file(folder, best)
    try:
        with usage_errors():
            if path.name == ACTOR:
                check_sums(folder, path.name)
                return path, load_actor(path, device)
            return path, row.kind.load(path, device=device, **row.to_act)
    except UsageError:
        if best or path.exists():
            raise
        return load_agent(folder, algorithm, best, device)


def agent_file(folder: Path, best: bool = False) -> Path:
    """Return the file of the agent to act with.

    :raises UsageError: if there is none.
    """
    actor = folder / ACTOR
    if actor.is_file() and not (folder / "checkpoints").is_dir():
        if best:
            raise UsageError(f"--best: {folder} was shared with the agent of its end alone. Leave it out.")
        return actor
    if best and not (folder / BEST).is_file():
        raise UsageError(f"--best: expected {folder / BEST}, which the first evaluation writes; found nothing.")
    return folder / BEST if best else newest_checkpoint(folder) / "agent.zip"


def newest_checkpoint(folder: Path) -> Path:
    """Return the checkpoint to resume from or to evaluate; damaged ones are passed over, with a warning.

    :raises UsageError: if there is none yet, or none that is whole.
    """
    from agents import StateFileError, latest_checkpoint

    try:
        return latest_checkpoint(folder / "checkpoints")
    except FileNotFoundError as error:
        raise UsageError(f"{error} {_why_none(folder)}") from error
    except StateFileError as error:
        raise UsageError(f"{error} Train it anew, in another --run-dir.") from error


def _why_none(folder: Path) -> str:
    if (folder / ACTOR).is_file():
        return "The run was shared with its actor alone, which acts and cannot go on: train it anew."
    if (folder / "tasks").is_dir():
        return (
            "Until version 0.2 such a run kept an actor per task in tasks/, which no longer opens; its tables do. To "
            "act or to go on, train it anew, in another --run-dir."
        )
    if (folder / BEST).is_file():
        best = f"python -m scripts.evaluate {shlex.quote(str(folder))} --best does without."
        return f"The folder was kept without it: restore it from a copy. {best}"
    if (folder / "result.json").exists():
        return "The folder was kept without it: restore it from a copy."
    return "The run ended before its first one: train it anew, in another --run-dir."
