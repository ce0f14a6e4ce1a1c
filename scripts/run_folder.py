"""A run is a folder of plain files; evaluation, comparison and plots read only that.

config.json      every setting               metrics.csv      one row per log point
protocol.json    how success was measured    evaluations.csv  one row per task and evaluation
versions.json    software and machine        tensorboard/     the metrics again, as events
goals.npz        goal vectors per task       checkpoints/     the newest ones
result.json      the end of the run, with the table of success
"""

from __future__ import annotations

import json
import os
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from agents.checkpoint import latest_checkpoint
from agents.evaluation import Evaluation
from scripts.cli import UsageError
from scripts.config import TrainConfig
from scripts.csv_table import CsvOutputFormat, CsvTable
from scripts.protocol import Protocol, hash_goals

_SOFTWARE = ("mtrl-surgery", "torch", "stable-baselines3", "gymnasium", "metaworld", "mujoco", "numpy")


@dataclass
class RunFolder:
    """The files of one run."""

    path: Path
    config: TrainConfig
    protocol: Protocol
    goals: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        self.metrics = CsvTable(self.path / "metrics.csv")
        self.evaluations = CsvTable(self.path / "evaluations.csv")
        self.checkpoints = self.path / "checkpoints"
        self._tensorboard: TensorBoardOutputFormat | None = None  # opened by a training run only

    def save(self) -> RunFolder:
        """Writes config, protocol, versions and goals; config.json comes last and makes the folder a run."""
        self.path.mkdir(parents=True, exist_ok=True)
        np.savez(self.path / "goals.npz", **self.goals)  # type: ignore[arg-type]  # numpy's stub takes a flag there
        write_json(self.path / "versions.json", _versions())
        write_json(self.path / "protocol.json", {"id": self.protocol.id, **self.protocol.to_json()})
        write_json(self.path / "config.json", self.config.to_json())
        return self

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Reads a run. Raises UsageError if `path` is not a run or is damaged."""
        if not (path / "config.json").is_file():
            found = "a folder without config.json" if path.is_dir() else "a file" if path.exists() else "nothing"
            raise UsageError(
                f"expected the folder of a run at {path}; found {found}. Give the --run-dir of a training run."
            )
        try:
            config = TrainConfig.from_json(read_json(path / "config.json"))
            protocol = {name: value for name, value in read_json(path / "protocol.json").items() if name != "id"}
            with np.load(path / "goals.npz", allow_pickle=False) as archive:
                goals = {name: archive[name] for name in archive.files}
            run = cls(path, config, Protocol.from_json(protocol), goals)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"the run in {path} is damaged: {error}. Restore the file from a copy or train anew."
            ) from error
        if hash_goals(goals) != run.protocol.goal_set:
            raise UsageError(
                f"the run in {path} is damaged: goals.npz is not the goal set of protocol.json. Restore it."
            )
        return run

    def logger(self) -> Logger:
        """Stable-Baselines3's logger onto metrics.csv and TensorBoard."""
        self._tensorboard = TensorBoardOutputFormat(str(self.path / "tensorboard"))
        return Logger(str(self.path), [CsvOutputFormat(self.metrics), self._tensorboard])

    def rewind(self, env_steps_per_task: int) -> None:
        """Forgets what was logged after a checkpoint, so that no step is logged twice."""
        total = env_steps_per_task * len(self.protocol.tasks)
        self.metrics.keep(lambda row: int(row["env_steps"]) <= total)
        self.evaluations.keep(lambda row: int(row["env_steps_per_task"]) <= env_steps_per_task)

    def add_evaluation(self, env_steps_per_task: int, evaluation: Evaluation) -> None:
        """Appends one row per task, and shows the successes in TensorBoard."""
        self.evaluations.append(
            {
                "env_steps_per_task": env_steps_per_task,
                "task": task,
                "success": evaluation.success[i].mean(),
                "success_last": evaluation.success_last[i].mean(),
                "return": evaluation.returns[i].mean(),
                "episodes": evaluation.success.shape[1],
            }
            for i, task in enumerate(evaluation.task_names)
        )
        if self._tensorboard:
            rates = dict(zip(evaluation.task_names, evaluation.success.mean(1), strict=True))
            values = {"eval/success": evaluation.success.mean()} | {
                f"eval/success/{name}": r for name, r in rates.items()
            }
            total = env_steps_per_task * len(rates)
            self._tensorboard.write(values, dict.fromkeys(values), total)  # type: ignore[arg-type]

    def newest_checkpoint(self) -> Path:
        """The checkpoint to resume from or to evaluate. Raises UsageError if there is none yet."""
        try:
            return latest_checkpoint(self.checkpoints)
        except FileNotFoundError as error:
            raise UsageError(f"{error} Train it anew, in another --run-dir.") from error

    def success_curves(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Env steps per task (N,) and success per task name (N,). Raises UsageError if nothing was evaluated yet."""
        try:
            rows = [(int(r["env_steps_per_task"]), r["task"], float(r["success"])) for r in self.evaluations.read()]
            steps = np.array(sorted({step for step, _, _ in rows}))
            curves = {
                name: np.array([s for _, task, s in sorted(rows) if task == name]) for name in self.protocol.tasks
            }
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{self.evaluations.path} is damaged: {error}. Restore it from a copy.") from error
        if not rows:
            raise UsageError(f"{self.path} holds no evaluation yet: wait for the first one, or train longer.")
        return steps, curves


def require_new(path: Path) -> None:
    """Raises UsageError unless `path` is free for a new run."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        resume = f" or go on with that run: --resume {path}" if (path / "config.json").exists() else ""
        raise UsageError(f"expected a new or empty run folder; {path} is not empty. Choose another --run-dir{resume}")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes indented JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError or ValueError."""
    values = json.loads(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return values


def _versions() -> dict[str, Any]:
    software = {name: version(name) for name in _SOFTWARE}
    return software | {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}
