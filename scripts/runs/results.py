"""What evaluations come to, as numbers, and result.json, which keeps them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Evaluation
from envs import find_benchmark
from envs.vec_env import TaskVecEnv
from scripts.common.text import counted
from scripts.runs.files import as_usage_error, write_json
from scripts.runs.folder import Run
from scripts.runs.tables import evaluation_rows

_MEANS = ("success", "success_last", "return", "steps_to_success")
_TOLD = "goal_distance"  # one more, where tasks tell it


def wilson(successes: float, episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a success rate by Wilson's score (1927): in [0, 1], also for 0 or all successes."""
    z = 1.959964
    rate = successes / episodes
    centre = (rate + z**2 / (2 * episodes)) / (1 + z**2 / episodes)
    half = z / (1 + z**2 / episodes) * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    low, high = float(centre - half), float(centre + half)
    return 0.0 if successes <= 0 else low, 1.0 if successes >= episodes else high  # exactly, not but for rounding


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Success (any step, last step), Wilson 95 % interval, return, steps to success, by task and their mean.

    Where tasks tell it the distance to the goal, too.

    The interval of the mean pools all episodes as if they were of one task; it is a little too wide when tasks differ.
    """
    return _with_mean({row["task"]: _summary(row) for row in evaluation_rows(0, evaluation)})


def group_means(summary: Mapping[str, Any], benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the mean of each of the benchmark's groups of tasks, "easy (7 tasks)" say; empty where it has none."""
    tasks = list(summary["tasks"])
    groups = find_benchmark(benchmark).grouped(tasks)
    return {
        f"{name} ({counted(len(own), 'task')})": _with_mean({tasks[i]: summary["tasks"][tasks[i]] for i in own})["mean"]
        for name, own in groups.items()
    }


def _with_mean(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every task has as many episodes, so the mean over tasks is that over all episodes.

    Tasks that report no success are left out of its mean.
    """
    rows = list(tasks.values())
    known = {name: [row[name] for row in rows if row[name] is not None] for name in _means(rows[0])}
    means = {name: np.mean(values) if values else np.nan for name, values in known.items()}
    episodes = (len(known["success"]) or len(rows)) * rows[0]["episodes"]
    return {"tasks": tasks, "mean": _summary({**means, "episodes": episodes})}


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of evaluations.csv as numbers; what is unknown is None, as JSON has no NaN."""
    steps = row.get("steps_to_success") or np.nan  # tables of 0.1 do not have it
    row = {**row, "steps_to_success": steps}
    means = {name: float(row[name]) for name in _means(row)}
    success, episodes = means["success"], int(row["episodes"])
    interval = None if np.isnan(success) else list(wilson(success * episodes, episodes))
    known = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    return {**known, "success_interval": interval, "episodes": episodes}


def _means(row: Mapping[str, Any]) -> tuple[str, ...]:
    told = row.get(_TOLD, "") != ""  # the cell is empty where another evaluation of the run told it
    return (*_MEANS, _TOLD) if told else _MEANS


def latest_evaluation(run: Run) -> dict[str, Any] | None:
    """Return a run's newest evaluation as `summarize` gave it, with `env_steps_per_task`; None before the first."""
    with as_usage_error(run.evaluations.path):
        rows = run.evaluations.read()
        step = max(map(run.step_of, rows), default=0)
        tasks = {row["task"]: _summary(row) for row in rows if run.step_of(row) == step}
    return {"env_steps_per_task": step, **_with_mean(tasks)} if tasks else None


def best_evaluation(run: Run) -> dict[str, Any] | None:
    """Return the highest mean success of all evaluations so far: an optimistic number, to be labelled "best".

    The mean is over the tasks that report it.
    """
    if not run.evaluations.read():
        return None
    steps, curves = run.success_curves()
    mean = np.ma.masked_invalid(list(curves.values())).mean(0)
    if not np.ma.count(mean):
        return None
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
    """Write result.json: how the run ended, final and best success, where the time went, and `unstable_episodes`."""
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
