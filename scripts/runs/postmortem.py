"""What a run says of itself: where it is, the way on, and after training broke down what is known and the way back."""

from __future__ import annotations

import math
import shlex

from agents import MTSAC, NonFiniteError
from agents.saving.checkpoint import checkpoints
from scripts.common.usage import step_limit
from scripts.runs.folder import Run, write_json


def cause(agent: MTSAC, error: Exception) -> Exception:
    """The loss that became non-finite, if one has: what goes wrong after it, in an environment say, follows from it."""
    try:
        agent.guard.check()
    except NonFiniteError as found:
        return found
    except RuntimeError:  # a broken device cannot be asked
        pass
    return error


def write_postmortem(run: Run, agent: MTSAC, error: Exception) -> None:
    """What is known about a run that went wrong, beside its last good checkpoint."""
    write_json(
        run.path / "postmortem.json",
        {
            "error": type(error).__name__,
            "message": "\n".join([str(error), *getattr(error, "__notes__", [])]),
            **{name: getattr(error, name, None) for name in ("task", "quantity", "update")},
            "env_steps_per_task": agent.steps_per_task,
            "metrics": {name: value if math.isfinite(value) else str(value) for name, value in agent.metrics().items()},
        },
    )


def resume_command(run: Run) -> str:
    """The command that goes on with a run."""
    trust = " --run-code" if any(".py:" in name for name in run.config.aggregators()) else ""
    limit = f"STEPS={step_limit() or run.config.steps_per_task} " if run.config.trial else ""
    return f"{limit}python -m scripts.train --resume {shlex.quote(str(run.path))}{trust}"


def whereabouts(run: Run) -> str:
    """Where a run that begins keeps its files; of a trial, that it is one."""
    trial = "\nSTEPS={} is set: a trial, no result. The next run in this folder replaces it."
    told = trial.format(step_limit()) if run.config.trial else ""
    return f"run folder: {shlex.quote(str(run.path))}{told}\n"


def next_steps(run: Run, evaluable: bool, go_on: str = "") -> list[str]:
    """What to say at the end of a run, in lines: the files that there are, and the commands that work with them.

    :param evaluable: whether there are weights to evaluate.
    :param go_on: the command that goes on with the run, if one can.
    """
    files = ("result.json", "evaluations.csv", "metrics.csv", "conflicts.csv", "tensorboard/", "checkpoints/", "tasks/")
    path, program = shlex.quote(str(run.path)), "python -m scripts"
    commands = (
        f"{program}.evaluate {path}" if evaluable else "",
        f"{program}.plot {path}" if run.evaluations.read() else "",
        go_on,
    )
    there = ", ".join(name for name in files if (run.path / name).exists())
    return [f"Everything is in {path}: {there}", "Next:", *(f"  {command}" for command in commands if command)]


def way_back(run: Run, lower_rate: bool) -> str:
    """What to do after training broke down."""
    saved = checkpoints(run.checkpoints)
    if not saved and not lower_rate:
        return f"There is no checkpoint yet. Begin anew with:\n  {resume_command(run)}"
    if not saved:
        return "There is no checkpoint to go back to: train anew with other settings, in another --run-dir."
    rate = f" --learning-rate {run.config.learning_rate / 2:g}" if lower_rate else ""
    how = " with other settings, for example" if lower_rate else ""
    return f"The last good checkpoint is {saved[-1]}. Go on from it{how}:\n  {resume_command(run)}{rate}"
