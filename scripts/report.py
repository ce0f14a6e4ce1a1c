"""What an evaluation says, as a table to read and as JSON to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from agents.evaluation import Evaluation
from scripts.run_folder import RunFolder


def wilson(successes: float, episodes: int) -> tuple[float, float]:
    """The 95 % interval of a success rate by Wilson's score (1927): inside [0, 1], also for 0 or all successes."""
    z = 1.959964
    rate = successes / episodes
    centre = (rate + z**2 / (2 * episodes)) / (1 + z**2 / episodes)
    half = z / (1 + z**2 / episodes) * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Success (any step, last step), Wilson 95 % interval, return and episodes per task by name, and their mean.

    The interval of the mean pools all episodes as if they were of one task; it is a little too wide when tasks differ.
    """
    tasks = {
        name: _summary(evaluation.success[i], evaluation.success_last[i], evaluation.returns[i])
        for i, name in enumerate(evaluation.task_names)
    }
    return {"tasks": tasks, "mean": _summary(evaluation.success, evaluation.success_last, evaluation.returns)}


def _summary(success: np.ndarray, success_last: np.ndarray, returns: np.ndarray) -> dict[str, Any]:
    return {
        "success": float(success.mean()),
        "success_interval": list(wilson(float(success.sum()), success.size)),
        "success_last": float(success_last.mean()),
        "return": float(returns.mean()),
        "episodes": int(success.size),
    }


def best_evaluation(run: RunFolder) -> dict[str, Any] | None:
    """The highest mean success of all evaluations so far: an optimistic number, to be labelled "best"."""
    if not run.evaluations.read():
        return None
    steps, curves = run.success_curves()
    mean = np.mean(list(curves.values()), axis=0)
    return {"env_steps_per_task": int(steps[mean.argmax()]), "success": float(mean.max())}


def success_table(summary: dict[str, Any], title: str) -> Table:
    """One line per task by name, the mean last."""
    episodes = next(iter(summary["tasks"].values()))["episodes"]
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}, {episodes} episodes per task")
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("task", no_wrap=True)
    for column in ("success", "95 %", "at last step", "return"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in summary["tasks"].items():
        table.add_row(name, *_cells(row))
    table.add_section()
    table.add_row("mean", *_cells(summary["mean"]), style="bold")
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["success_interval"]
    return [f"{row['success']:.2f}", f"{low:.2f}-{high:.2f}", f"{row['success_last']:.2f}", f"{row['return']:,.1f}"]
