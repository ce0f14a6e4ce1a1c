"""A run is a folder of plain files; evaluation, comparison, plots and notebooks read only that.

config.json      every setting               metrics.csv      one row per log point
protocol.json    how success was measured    evaluations.csv  one row per task and evaluation
versions.json    software, machine, commit   tensorboard/     the metrics again, as events
goals.npz        goal vectors per task       checkpoints/     the newest ones, and best.zip
conflicts.csv    cosines of task gradients    result.json      the end of the run, with the table of success
versions-resumed.json   versions.json of the newest part of a run that was resumed
actor.safetensors       in place of checkpoints, the actor of a run that scripts.share wrote
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.saving.atomic import sync
from scripts.common.usage import UsageError
from scripts.runs import hub, software
from scripts.runs.files import (
    as_usage_error,
    read_goals,
    read_json,
    read_protocol,
    require_plain_files,
    write_goals,
    write_json,
)
from scripts.runs.protocol import Protocol, describe
from scripts.runs.tables import STEP, CsvTable, evaluation_rows
from scripts.runs.weights import ACTOR, BEST, load_agent, newest_checkpoint
from scripts.setup.config import TrainConfig, check
from scripts.setup.trust import require_trust, suite_code

if TYPE_CHECKING:  # importing this needs neither torch nor Stable-Baselines3; a run's torsos are looked up with torch
    from agents import MTSAC, Evaluation, TrainedActor
    from envs.vec_env import TaskVecEnv

Status = Literal["finished", "failed", "unfinished"]
TRAINED = Path(__file__).parent / "trained"  # runs with an actor, written by scripts.share, that come with the package
_MOST_STEPS = 2**53  # above, floats are no longer exact


def trained_agents() -> list[str]:
    """Return the names of the trained agents that come with the package."""
    return sorted(path.parent.name for path in TRAINED.glob("*/config.json"))


def _found(path: Path) -> Path:
    """Return the folder that a path or name means: a run that is there goes before a trained agent of that name."""
    if not path.exists() and (name := hub.repository(path)):
        return hub.fetch(name)
    return TRAINED / path if not (path / "config.json").exists() and str(path) in trained_agents() else path


class Run:
    """One run, opened from its folder: `Run("runs/x")`.

    `config` and `protocol` say what was trained and how success was measured; `metrics`, `evaluations` and `conflicts`
    are tables, read when they are asked for.

    :param path: its folder; or the name of one of the trained agents that come with the package (`TRAINED`); or
        `hub:USER/NAME`, which is fetched from the Hugging Face Hub.
    :raises UsageError: if there is no run, or config.json or protocol.json is damaged.
    """

    config: TrainConfig
    protocol: Protocol

    def __init__(self, path: str | Path) -> None:
        self.path = _found(Path(path))
        if not (self.path / "config.json").is_file():
            found = (
                "a folder without config.json" if self.path.is_dir() else "a file" if self.path.exists() else "nothing"
            )
            raise UsageError(
                f"expected the folder of a run at {path}; found {found}. Give the --run-dir of a training run, or a "
                f"trained agent: {', '.join(trained_agents())}."
            )
        require_plain_files(self.path)
        with as_usage_error(self.path / "config.json"):
            values = read_json(self.path / "config.json")
            values.pop("collect_ahead", None)  # until version 0.2; the protocol says it, too
            self.config = TrainConfig.from_json(values)
            check(self.config)
        with as_usage_error(self.path / "protocol.json"):
            self.protocol = read_protocol(self.path / "protocol.json")

    @classmethod
    def new(cls, path: Path, config: TrainConfig, protocol: Protocol, goals: dict[str, np.ndarray]) -> Run:
        """Return a run that is not in files yet: `save` writes it."""
        run = cls.__new__(cls)
        run.path, run.config, run.protocol, run.goals = path, config, protocol, goals
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def goals(self) -> dict[str, np.ndarray]:
        """Goal vectors per task."""
        with as_usage_error(self.path / "goals.npz"):
            return read_goals(self.path / "goals.npz")

    @cached_property
    def metrics(self) -> CsvTable:
        """What training logged: a row every --log-every steps."""
        return self._table("metrics.csv")

    @cached_property
    def evaluations(self) -> CsvTable:
        """A row per task and evaluation."""
        return self._table("evaluations.csv")

    @cached_property
    def conflicts(self) -> CsvTable:
        """Cosines between the tasks' gradients: a row per network and measurement, a column per pair of tasks."""
        return self._table("conflicts.csv")

    def _table(self, name: str) -> CsvTable:
        with as_usage_error(self.path / name):
            table = CsvTable(self.path / name)
            if table.columns and not {STEP, "env_steps"} & {*table.columns}:
                raise ValueError(f"expected a column {STEP}; found {', '.join(table.columns)[:100]!r}")
            return table

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The file of the agent at its best evaluation, to act with."""
        return self.path / BEST

    @property
    def actor(self) -> Path:
        """The file of the trained actor, of a run that was shared."""
        return self.path / ACTOR

    @property
    def status(self) -> Status:
        """How far it is: `failed` if a loss became non-finite and nobody took it further.

        Whatever else ended it (a worker, the disk, a permission) says nothing about the method: it can go on.
        """
        path = self.path / "result.json"
        if path.exists():
            with as_usage_error(path):
                result = read_json(path)
                if result["status"] == "finished" and result["env_steps_per_task"] >= self.config.steps_per_task:
                    return "finished"
        path = self.path / "postmortem.json"
        if not path.exists():
            return "unfinished"
        with as_usage_error(path):  # the post-mortem of an independent run is of nothing else, and does not say so
            return "failed" if read_json(path).get("error", "NonFiniteError") == "NonFiniteError" else "unfinished"

    @property
    def success(self) -> dict[str, float]:
        """Success of each task in the newest evaluation, NaN where the task did not report it.

        :raises UsageError: if nothing was evaluated yet.
        """
        return {task: float(curve[-1]) for task, curve in self.success_curves()[1].items()}

    def success_curves(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Env steps per task (N,) and success per task name (N,), NaN where it is not known.

        :raises UsageError: if nothing was evaluated yet.
        """
        with as_usage_error(self.evaluations.path):
            rows = [(self.step_of(row), row["task"], float(row["success"])) for row in self.evaluations.read()]
            steps = np.array(sorted({step for step, _, _ in rows}))
            curves = {
                name: np.array([s for _, task, s in sorted(rows) if task == name]) for name in self.protocol.tasks
            }
            if strange := [success for _, _, success in rows if success < 0 or success > 1]:
                raise ValueError(f"expected success rates of 0 to 1, found {strange[0]}")
            if short := [name for name, curve in curves.items() if len(curve) != len(steps)]:
                raise ValueError(f"expected one row of {short[0]} at each of {len(steps)} steps")
        if not rows:
            raise UsageError(f"{self.path} holds no evaluation yet: wait for the first one, or train longer.")
        return steps, curves

    def step_of(self, row: Mapping[str, Any]) -> int:
        """Return the steps per task of a row of any table; in version 0.1 `env_steps` counted those of all tasks.

        :raises KeyError, ValueError: if it has none.
        """
        own = row.get(STEP, "")
        step = float(row["env_steps"]) / len(self.protocol.tasks) if own == "" else float(own)
        if not 0 <= step < _MOST_STEPS:
            raise ValueError(f"expected a number of steps, found {step:g}")
        return int(step)

    def verified(self) -> Run:
        """Check what opening leaves out (goals, tables, aggregators, and whether all agree) and return this run.

        :raises UsageError: if something is damaged.
        """
        from mtrl import make_aggregator

        with as_usage_error(self.path / "config.json"):
            for name, options in self.config.aggregators().items():
                if ":" not in name:  # a class from elsewhere is code: only a run that goes on needs it
                    make_aggregator(name, **options)
        goals = self.goals
        with as_usage_error(self.path / "goals.npz"):
            settled = describe(self.config, self.protocol.tasks, goals, self.protocol.spaces)
        if changed := self.protocol.changed(settled):
            found = ", ".join(f"{n} {getattr(self.protocol, n)!r} against {getattr(settled, n)!r}" for n in changed)
            raise UsageError(
                f"the run in {self.path} is damaged: protocol.json does not agree with config.json and goals.npz: "
                f"{found}. Restore the files from a copy."
            )
        _ = self.metrics, self.evaluations, self.conflicts
        return self

    def require_tasks(self, names: tuple[str, ...], source: Path) -> None:
        """Raise UsageError unless `names`, which come from `source`, are the tasks of the protocol."""
        if names != self.protocol.tasks:
            raise UsageError(f"expected the tasks {self.protocol.tasks} of this run's protocol; {source} has {names}.")

    def agent(self, best: bool = False, device: str = "cpu") -> MTSAC | TrainedActor:
        """Return the agent of the newest checkpoint, to act with; of a run that was shared, its actor.

        :param best: that of the best evaluation during training instead (optimistic: chosen on these goals).
        :raises UsageError: if there is none, or it is damaged or of other tasks.
        """
        return self.load_agent(best, device)[1]

    def load_agent(self, best: bool = False, device: str = "cpu") -> tuple[Path, MTSAC | TrainedActor]:
        """Return the file that `agent` reads, and the agent."""
        path, agent = load_agent(self.path, self.config.algorithm, best, device)
        self.require_tasks(agent.task_names, path)
        return path, agent

    def env(self, workers: Literal["auto"] | int = "auto", run_code: bool = False) -> TaskVecEnv:
        """Return the environment of its evaluations: each goal once, in order, whole episodes. Close it after use.

        :param workers: processes beside this one that step the tasks; auto: as many as there are other cores.
        :param run_code: allow the suite to be a function in a module or file, which is run.
        :raises UsageError: if it is one, and `run_code` is not set.
        """
        from scripts.setup.build import make_evaluation_env

        require_trust(suite_code(self.config), run_code, "the environment of")
        return make_evaluation_env(replace(self.config, workers=workers, eval_envs_per_task=1), self.goals, alone=True)

    def newest_checkpoint(self) -> Path:
        """Return the checkpoint to resume from or to evaluate; damaged ones are passed over, with a warning.

        :raises UsageError: if there is none yet, or none that is whole.
        """
        return newest_checkpoint(self.path)

    def save(self) -> Run:
        """Write config, protocol, versions and goals; config.json comes last and makes the folder a run.

        A run that is resumed keeps its goals and first versions, and is no longer one that broke down.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / "config.json").exists():
            (self.path / "postmortem.json").unlink(missing_ok=True)
            write_json(self.path / "versions-resumed.json", software.versions())
        else:
            write_goals(self.path / "goals.npz", self.goals)
            write_json(self.path / "versions.json", software.versions())
        write_json(self.path / "protocol.json", {"id": self.protocol.id, **self.protocol.to_json()})
        write_json(self.path / "config.json", self.config.to_json())
        return self

    def other_software(self) -> str:
        """Return what differs between the software that this run began with and that of now; empty if nothing does."""
        with as_usage_error(self.path / "versions.json"):
            return software.changes(read_json(self.path / "versions.json"))

    def add_evaluation(self, env_steps_per_task: int, evaluation: Evaluation) -> None:
        """Append one row per task."""
        self.require_there()
        self.evaluations.append(evaluation_rows(env_steps_per_task, evaluation))

    def require_there(self) -> None:
        """Raise OSError if the folder was moved or deleted meanwhile: a second one must not begin at the old place."""
        if not (self.path / "config.json").exists():
            raise OSError(errno.ESTALE, "the folder of the run was moved or deleted while it trained", str(self.path))

    def sync(self) -> None:
        """Wait until all rows of the tables are on the disk: a checkpoint must not be newer than what led to it."""
        self.require_there()
        for table in (self.metrics, self.evaluations, self.conflicts):
            sync(table.path)
