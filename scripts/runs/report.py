"""What an evaluation says, as a table to read and as JSON to keep."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Evaluation
from envs.vec_env import TaskVecEnv
from scripts.common.screen import FittedTable
from scripts.runs.folder import Run, intact, write_json


def wilson(successes: float, episodes: int) -> tuple[float, float]:
    """The 95 % interval of a success rate by Wilson's score (1927): inside [0, 1], also for 0 or all successes."""
    z = 1.959964
    rate = successes / episodes
    centre = (rate + z**2 / (2 * episodes)) / (1 + z**2 / episodes)
    half = z / (1 + z**2 / episodes) * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    low, high = float(centre - half), float(centre + half)
    return 0.0 if successes <= 0 else low, 1.0 if successes >= episodes else high  # exactly, not but for rounding


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Success (any step, last step), Wilson 95 % interval, return and episodes per task by name, and their mean.

    The interval of the mean pools all episodes as if they were of one task; it is a little too wide when tasks differ.
    """
    rates = zip(*(x.mean(1) for x in (evaluation.success, evaluation.success_last, evaluation.returns)), strict=True)
    episodes = evaluation.success.shape[1]
    return _with_mean({n: _summary(r, episodes) for n, r in zip(evaluation.task_names, rates, strict=True)})


def _with_mean(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every task has as many episodes, so the mean over tasks is that over all episodes.

    Tasks that report no success are left out of its mean.
    """
    rows = list(tasks.values())
    known = {n: [row[n] for row in rows if row[n] is not None] for n in ("success", "success_last", "return")}
    means = (np.mean(values) if values else np.nan for values in known.values())
    return {"tasks": tasks, "mean": _summary(means, (len(known["success"]) or len(rows)) * rows[0]["episodes"])}


def _summary(rates: Iterable[float], episodes: int) -> dict[str, Any]:
    success, success_last, returns = (None if np.isnan(rate) else float(rate) for rate in rates)  # JSON has no NaN
    return {
        "success": success,
        "success_interval": None if success is None else list(wilson(success * episodes, episodes)),
        "success_last": success_last,
        "return": returns,
        "episodes": episodes,
    }


def latest_evaluation(run: Run) -> dict[str, Any] | None:
    """The newest evaluation of a run as `summarize` gave it, with its `env_steps_per_task`; None before the first."""
    with intact(run.evaluations.path):
        rows = run.evaluations.read()
        step = max((int(row["env_steps_per_task"]) for row in rows), default=0)
        tasks = {
            row["task"]: _summary(
                (float(row[name]) for name in ("success", "success_last", "return")), int(row["episodes"])
            )
            for row in rows
            if int(row["env_steps_per_task"]) == step
        }
    return {"env_steps_per_task": step, **_with_mean(tasks)} if tasks else None


def best_evaluation(run: Run) -> dict[str, Any] | None:
    """The highest mean success of all evaluations so far: an optimistic number, to be labelled "best"."""
    if not run.evaluations.read():
        return None
    steps, curves = run.success_curves()
    mean = np.mean(list(curves.values()), axis=0)
    return {"env_steps_per_task": int(steps[mean.argmax()]), "success": float(mean.max())}


def write_result(
    run: Run,
    status: str,
    argv: Sequence[str],
    env_steps_per_task: int,
    latest: dict[str, Any] | None,
    seconds: Mapping[str, float],
    unstable: Mapping[str, int] | None = None,
) -> None:
    """Writes result.json: how the run ended, final and best success, where the time went, and `unstable_episodes`."""
    result = {
        "status": status,
        "trial": run.config.trial,
        "command": shlex.join(["python", "-m", "scripts.train", *argv]),
        "protocol": {"id": run.protocol.id, **run.protocol.to_json()},
        "env_steps_per_task": env_steps_per_task,
        "evaluation": latest,
        "best": best_evaluation(run),
        "seconds": seconds,
        "unstable_episodes": unstable or {},
    }
    write_json(run.path / "result.json", result)


def unstable_episodes(env: TaskVecEnv) -> dict[str, int]:
    """Training episodes per task in which MuJoCo's state became NaN or huge; empty where there is no MuJoCo."""
    try:
        counts = env.get_attr("instabilities")
    except AttributeError:
        return {}
    return {name: sum(counts[i :: env.num_tasks]) for i, name in enumerate(env.task_names)}


def success_table(summary: dict[str, Any], title: str) -> FittedTable:
    """One line per task by name, the mean last."""
    episodes = next(iter(summary["tasks"].values()))["episodes"]
    rows = {name: _cells(row) for name, row in summary["tasks"].items()}
    return _table(f"{title}, {episodes} episodes per task", rows, _cells(summary["mean"]))


def training_table(metrics: Mapping[str, float], task_names: tuple[str, ...], title: str) -> FittedTable | None:
    """The same table from `MTSAC.metrics`, for want of an evaluation; None before the first episode has ended."""
    if "rollout/success" not in metrics:
        return None

    def cells(suffix: str) -> list[str]:
        success, returns = (metrics.get(f"rollout/{name}{suffix}") for name in ("success", "return"))
        return ["-" if success is None else f"{success:.2f}", "-", "-", "-" if returns is None else f"{returns:,.1f}"]

    rows = {name: cells(f"/{name}") for name in task_names}
    return _table(f"{title}\ntraining episodes, not an evaluation", rows, cells(""))


def _table(title: str, rows: Mapping[str, list[str]], mean: list[str]) -> FittedTable:
    table = FittedTable("task", "success", "95 %", "at last step", "return", title=title)
    for name, row in rows.items():
        table.add_row(name, *row)
    table.add_section()
    table.add_row("mean", *mean, style="bold")
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    interval = "-" if row["success_interval"] is None else "{:.2f}-{:.2f}".format(*row["success_interval"])
    success, last = ("-" if row[name] is None else f"{row[name]:.2f}" for name in ("success", "success_last"))
    return [success, interval, last, "-" if row["return"] is None else f"{row['return']:,.1f}"]
