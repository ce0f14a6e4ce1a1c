"""Run folders as training leaves them, made in a moment, with the numbers that a test wants."""

from dataclasses import replace

import numpy as np

from agents import Evaluation
from scripts.runs import Run
from scripts.runs.files import write_json
from scripts.runs.protocol import describe
from scripts.runs.results import latest_evaluation, write_result
from scripts.runs.tables import STEP
from scripts.setup.config import TrainConfig

TASKS = ("reach-v3", "push-v3")
GOALS = {name: np.arange(150.0).reshape(50, 3) + i for i, name in enumerate(TASKS)}
CONFIG = TrainConfig(preset="mt10", steps_per_task=200, aggregator="mean", eval_goals=10, final_goals=10)
HALF = {100: (0.2, 0.4), 200: (0.5, 0.7)}  # step -> success of each task


def make_run(path, success=None, status="finished", logs=False, **settings):
    """A run of two tasks; `success` maps steps to the rates of the tasks, in tenths."""
    config = replace(CONFIG, **settings)
    run = Run.new(path, config, describe(config, TASKS, GOALS), GOALS).save()
    for step, rates in (HALF if success is None else success).items():
        outcomes = (np.arange(10) < np.round(np.array(rates)[:, None] * 10)).astype(float)
        none = outcomes * 0
        run.add_evaluation(step, Evaluation(TASKS, outcomes, none, outcomes * 100, none + 500, none + 60))
    if status == "failed":
        write_json(path / "postmortem.json", {"task": "push-v3"})
    else:
        steps = config.steps_per_task if status == "finished" else 100
        write_result(run, status, [], steps, latest_evaluation(run), {"learn": 3600.0, "evaluate": 1800.0})
    if logs:
        add_logs(run)
    return run


def add_logs(run):
    """metrics.csv and conflicts.csv with numbers at four steps."""
    pair = "|".join(TASKS)
    for step in (50, 100, 150, 200):
        row = {f"train/{n}_{name}": 0.5 for n in ("actor", "critic") for name in ("conflict_share", "curvature")}
        row |= {f"train/{n}_norms/{task}": 1.0 + i for n in ("actor", "critic") for i, task in enumerate(TASKS)}
        row |= {f"train/ent_coef/{task}": 0.1 / step for task in TASKS}
        times = {"time/env_steps_per_task": step, "time/seconds_learn": 36 * step, "time/seconds_evaluate": 1e9}
        run.metrics.append([{STEP: step, **row, **times}])
        run.conflicts.append(
            [{STEP: step, "network": n, pair: f"{(step - 100) / 200:.4f}"} for n in ("actor", "critic")]
        )
