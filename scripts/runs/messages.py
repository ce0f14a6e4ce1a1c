"""What a run says on the screen: where it is, how it went, the way on, and after a breakdown the way back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from agents.saving.checkpoint import checkpoints
from agents.settings import half_rate
from scripts.common.screen import FittedTable
from scripts.common.text import counted
from scripts.common.usage import step_limit
from scripts.runs.folder import Run
from scripts.setup.trust import code_of, suite_code


def resume_command(run: Run) -> str:
    """Return the command that goes on with a run."""
    trust = " --run-code" if code_of(run.config) else ""
    limit = f"STEPS={step_limit() or run.config.steps_per_task} " if run.config.trial else ""
    return f"{limit}python -m scripts.train --resume {shlex.quote(str(run.path))}{trust}"


def whereabouts(run: Run) -> str:
    """Where a run that begins keeps its files; of a trial, that it is one."""
    trial = "\nSTEPS={} is set: a trial, no result. The next run in this folder replaces it."
    told = trial.format(step_limit()) if run.config.trial else ""
    return f"run folder: {shlex.quote(str(run.path))}{told}\n"


def next_steps(run: Run, evaluable: bool, go_on: str = "") -> list[str]:
    """Return what to say at the end of a run, in lines: the files that there are, and the commands that work with them.

    :param evaluable: whether there are weights to evaluate.
    :param go_on: the command that goes on with the run, if one can.
    """
    files = ("result.json", "evaluations.csv", "metrics.csv", "conflicts.csv", "tensorboard/", "checkpoints/")
    path, program = shlex.quote(str(run.path)), "python -m scripts"
    commands = (
        f"{program}.evaluate {path}{' --run-code' if suite_code(run.config) else ''}" if evaluable else "",
        f"{program}.plot {path}" if run.evaluations.read() else "",
        go_on,
    )
    there = ", ".join(name for name in files if (run.path / name).exists())
    return [f"Everything is in {path}: {there}", "Next:", *(f"  {command}" for command in commands if command)]


def way_back(run: Run, lower_rate: bool) -> str:
    """Return what to do after training broke down."""
    saved = checkpoints(run.checkpoints)
    if not saved and not lower_rate:
        return f"There is no checkpoint yet. Begin anew with:\n  {resume_command(run)}"
    if not saved:
        return "There is no checkpoint to go back to: train anew with other settings, in another --run-dir."
    rate = f" --learning-rate {half_rate(run.config.learning_rate)}" if lower_rate else ""
    how = " with other settings, for example" if lower_rate else ""
    return f"The last good checkpoint is {saved[-1]}. Go on from it{how}:\n  {resume_command(run)}{rate}"


def success_table(summary: dict[str, Any], title: str, groups: Mapping[str, Any] | None = None) -> FittedTable:
    """One line per task by name, the mean last.

    :param groups: what `results.group_means` gave: a line each, before the mean.
    """
    episodes = next(iter(summary["tasks"].values()))["episodes"]
    rows = {name: _cells(row) for name, row in summary["tasks"].items()}
    means = {**(groups or {}), "mean": summary["mean"]}
    return _table(
        f"{title}, {counted(episodes, 'episode')} per task",
        rows,
        {name: _cells(row) for name, row in means.items()},
        ["goal distance"] if "goal_distance" in summary["mean"] else [],
    )


def training_table(metrics: Mapping[str, float], task_names: tuple[str, ...], title: str) -> FittedTable | None:
    """Return the same table from `MTSAC.metrics`, for want of an evaluation; None before the first episode ends."""
    if "rollout/success" not in metrics:
        return None

    def cells(suffix: str) -> list[str]:
        success, returns = (metrics.get(f"rollout/{name}{suffix}") for name in ("success", "return"))
        return [_number(success, ".2f"), "-", "-", _number(returns, ",.1f"), "-"]

    rows = {name: cells(f"/{name}") for name in task_names}
    return _table(f"{title}\ntraining episodes, not an evaluation", rows, {"mean": cells("")})


def _table(
    title: str, rows: Mapping[str, list[str]], means: Mapping[str, list[str]], more: Sequence[str] = ()
) -> FittedTable:
    table = FittedTable("task", "success", *more, "95 %", "at last step", "return", "steps to success", title=title)
    for name, row in rows.items():
        table.add_row(name, *row)
    table.add_section()
    for name, row in means.items():
        table.add_row(name, *row, style="bold")
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    interval = "-" if row["success_interval"] is None else "{:.2f}-{:.2f}".format(*row["success_interval"])
    return [
        _number(row["success"], ".2f"),
        *([_number(row["goal_distance"], ".3f")] if "goal_distance" in row else []),
        interval,
        _number(row["success_last"], ".2f"),
        _number(row["return"], ",.1f"),
        _number(row["steps_to_success"], ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    """Return the number as text, "-" where it is unknown."""
    return "-" if value is None else format(value, form)
