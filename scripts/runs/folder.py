"""A run is a folder of plain files; evaluation, comparison and plots read only that.

config.json      every setting               metrics.csv      one row per log point
protocol.json    how success was measured    evaluations.csv  one row per task and evaluation
versions.json    software, machine, commit   tensorboard/     the metrics again, as events
goals.npz        goal vectors per task       checkpoints/     the newest ones, and best.zip
conflicts.csv    cosine of each pair of tasks' gradients over time, for actor and critic
result.json      the end of the run, with the table of success
tasks/           in place of checkpoints, the single tasks of an --independent run
versions-resumed.json   the same as versions.json, of the newest part of a run that was resumed
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from agents import StateFileError
from agents.evaluation import Evaluation
from agents.saving.atomic import sync, whole_file
from agents.saving.checkpoint import checkpoints, latest_checkpoint
from mtrl import make_aggregator
from scripts.common.usage import UsageError
from scripts.runs.claim import LOCK
from scripts.runs.protocol import Protocol, describe
from scripts.runs.tables import STEP, CosinesOutputFormat, CsvOutputFormat, CsvTable
from scripts.setup.config import TrainConfig, check

_MOST_GOALS = 2**24  # bytes; the 50 goals of each of 50 tasks are 150 kB
_MOST_JSON = 2**24  # bytes; a result of 50 tasks is 20 kB
_MOST_STEPS = 2**53  # above, floats are no longer exact
_TABLES = ("metrics.csv", "evaluations.csv", "conflicts.csv")
_FILES = (
    *("config.json", "protocol.json", "versions.json", "versions-resumed.json", "result.json", "postmortem.json"),
    *("goals.npz", LOCK, *_TABLES),
)
_FOLDERS = ("checkpoints", "tensorboard", "tasks")
_TASK = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # a name builds paths: it leads nowhere, and says nothing to a shell
_ROOT = Path(__file__).resolve().parents[2]
_SOFTWARE = ("mtrl-surgery", "torch", "stable-baselines3", "gymnasium", "metaworld", "mujoco", "numpy")


class _PerTask(Logger):
    """A logger that counts steps per task, as all that people see does; the agent counts those of all tasks."""

    def __init__(self, folder: str, formats: list[KVWriter], num_tasks: int) -> None:
        super().__init__(folder, formats)
        self.num_tasks = num_tasks

    def dump(self, step: int = 0) -> None:
        """Writes what was recorded, at this step of all tasks together."""
        super().dump(step // self.num_tasks)


@dataclass
class Run:
    """The files of one run."""

    path: Path
    config: TrainConfig
    protocol: Protocol
    goals: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        self.metrics = CsvTable(self.path / "metrics.csv")
        self.evaluations = CsvTable(self.path / "evaluations.csv")
        self.conflicts = CsvTable(self.path / "conflicts.csv")
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.zip"  # the agent at its best evaluation, to act with
        self._tensorboard: TensorBoardOutputFormat | None = None  # opened by a training run only

    def save(self) -> Run:
        """Writes config, protocol, versions and goals; config.json comes last and makes the folder a run.

        A run that is resumed keeps its goals and first versions, and is no longer one that broke down.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / "config.json").exists():
            (self.path / "postmortem.json").unlink(missing_ok=True)
            write_json(self.path / "versions-resumed.json", _versions())
        else:
            write_goals(self.path / "goals.npz", self.goals)
            write_json(self.path / "versions.json", _versions())
        write_json(self.path / "protocol.json", {"id": self.protocol.id, **self.protocol.to_json()})
        write_json(self.path / "config.json", self.config.to_json())
        return self

    @classmethod
    def open(cls, path: Path) -> Run:
        """Reads a run. Raises UsageError if `path` is not a run or is damaged."""
        if not (path / "config.json").is_file():
            found = "a folder without config.json" if path.is_dir() else "a file" if path.exists() else "nothing"
            raise UsageError(
                f"expected the folder of a run at {path}; found {found}. Give the --run-dir of a training run."
            )
        require_plain_files(path)
        with intact(path / "config.json"):
            config = TrainConfig.from_json(read_json(path / "config.json"))
            check(config)
            for name, options in config.aggregators().items():
                if ":" not in name:  # a class from elsewhere is code: only a run that goes on needs it
                    make_aggregator(name, **options)
        with intact(path / "protocol.json"):
            values = read_json(path / "protocol.json")
            id_ = values.pop("id")
            protocol = Protocol.from_json(values)
            if strange := [name for name in protocol.tasks if not _TASK.fullmatch(name)]:
                raise ValueError(f"expected names of tasks like reach-v3, found {strange[0][:100]!r}")
            if id_ not in (protocol.id, protocol.earlier_id):
                raise ValueError(f"its id is {id_!r}, but its fields make {protocol.id!r}")
        with intact(path / "goals.npz"):
            goals = read_goals(path / "goals.npz")
            settled = describe(config, protocol.tasks, goals)
        if changed := protocol.changed(settled):
            found = ", ".join(f"{n} {getattr(protocol, n)!r} against {getattr(settled, n)!r}" for n in changed)
            raise UsageError(
                f"the run in {path} is damaged: protocol.json does not agree with config.json and goals.npz: {found}. "
                "Restore the files from a copy."
            )
        for name in _TABLES:
            with intact(path / name):
                CsvTable(path / name)
        return cls(path, config, protocol, goals)

    def require_tasks(self, names: tuple[str, ...], source: Path) -> None:
        """Raises UsageError unless `names`, which come from `source`, are the tasks of the protocol."""
        if names != self.protocol.tasks:
            raise UsageError(f"expected the tasks {self.protocol.tasks} of this run's protocol; {source} has {names}.")

    def other_software(self) -> str:
        """What differs between the software that this run began with and that of now; empty if nothing does."""
        with intact(self.path / "versions.json"):
            before, now = read_json(self.path / "versions.json"), _versions()
        names = [name for name in (*_SOFTWARE, "revision") if name in before and before[name] != now[name]]
        return ", ".join(f"{name} {before[name] or 'unknown'} -> {now[name] or 'unknown'}" for name in names)

    def logger(self) -> Logger:
        """Stable-Baselines3's logger onto metrics.csv, conflicts.csv and TensorBoard, all over steps per task."""
        self._tensorboard = TensorBoardOutputFormat(str(self.path / "tensorboard"))
        cosines = CosinesOutputFormat(self.conflicts, self.protocol.tasks)
        return _PerTask(
            str(self.path), [CsvOutputFormat(self.metrics), cosines, self._tensorboard], len(self.protocol.tasks)
        )

    def step_of(self, row: Mapping[str, Any]) -> int:
        """Steps per task of a row of any table; runs of before counted those of all tasks together, as `env_steps`.

        Raises KeyError or ValueError if it has none.
        """
        own = row.get(STEP, "")
        step = float(row["env_steps"]) / len(self.protocol.tasks) if own == "" else float(own)
        if not 0 <= step < _MOST_STEPS:
            raise ValueError(f"expected a number of steps, found {step:g}")
        return int(step)

    def rewind(self, env_steps_per_task: int) -> None:
        """Forgets what was logged after a checkpoint, so that no step is logged twice.

        An evaluation that lacks a task was cut short, and is forgotten too.
        Raises UsageError if a file holds something else than its numbers.
        """
        for table, words in ((self.metrics, ()), (self.evaluations, ("task",)), (self.conflicts, ("network",))):
            with intact(table.path):
                whole = [row for row in table.read() if None not in row.values()]
                kept = [
                    {STEP: step, **{name: cell for name, cell in row.items() if name not in (STEP, "env_steps")}}
                    for row in whole
                    if (step := self.step_of(_numbers(row, *words))) <= env_steps_per_task
                ]
                if table is self.evaluations:
                    tasks = Counter(row[STEP] for row in kept)
                    kept = [row for row in kept if tasks[row[STEP]] == len(self.protocol.tasks)]
            columns = [name for name in table.columns if name not in (STEP, "env_steps")]
            table.replace(kept, [STEP, *columns] if table.columns else [])

    def add_evaluation(self, env_steps_per_task: int, evaluation: Evaluation) -> None:
        """Appends one row per task, and shows the successes in TensorBoard."""
        self.require_there()
        self.evaluations.append(evaluation_rows(env_steps_per_task, evaluation))
        if self._tensorboard:
            rates = dict(zip(evaluation.task_names, evaluation.task_success, strict=True))
            values = {"eval/success": evaluation.mean_success} | {
                f"eval/success/{name}": r for name, r in rates.items()
            }
            self._tensorboard.write(values, dict.fromkeys(values), env_steps_per_task)  # type: ignore[arg-type]

    def newest_checkpoint(self) -> Path:
        """The checkpoint to resume from or to evaluate; damaged ones are passed over, with a warning.

        Raises UsageError if there is none yet, or none that is whole.
        """
        try:
            return latest_checkpoint(self.checkpoints)
        except FileNotFoundError as error:
            if self.best.is_file() or (self.path / "result.json").exists():
                best = f" python -m scripts.evaluate {shlex.quote(str(self.path))} --best does without."
                what = f"The folder was kept without it: restore it from a copy.{best if self.best.is_file() else ''}"
            else:
                what = "The run ended before its first one: train it anew, in another --run-dir."
            raise UsageError(f"{error} {what}") from error
        except StateFileError as error:
            raise UsageError(f"{error} Train it anew, in another --run-dir.") from error

    def never_saved(self) -> bool:
        """Whether the run ended before its first checkpoint, so that it can begin anew without a loss.

        Raises UsageError if its checkpoints are gone.
        """
        if checkpoints(self.checkpoints):
            return False
        with intact(self.metrics.path):
            steps = max((self.step_of(_numbers(row)) for row in self.metrics.read()), default=0)
        if steps > (self.config.checkpoint_every or self.config.steps_per_task):
            raise UsageError(
                f"expected a checkpoint in {self.checkpoints}; found none, though the run came further than its first "
                "one. Restore them from a copy, or train anew in another --run-dir."
            )
        return True

    def concluded(self, env_steps_per_task: int) -> bool:
        """Whether result.json tells the end of the run at this step: a kill may have come just before."""
        if not (self.path / "result.json").exists():
            return False
        with intact(self.path / "result.json"):
            result = read_json(self.path / "result.json")
            return result["status"] == "finished" and result["env_steps_per_task"] == env_steps_per_task

    def require_there(self) -> None:
        """Raises OSError if the folder was moved or deleted meanwhile: a second one must not begin at the old place."""
        if not (self.path / "config.json").exists():
            raise OSError(errno.ESTALE, "the folder of the run was moved or deleted while it trained", str(self.path))

    def sync(self) -> None:
        """Waits until all rows of the tables are on the disk: a checkpoint must not be newer than what led to it."""
        self.require_there()
        for table in (self.metrics, self.evaluations, self.conflicts):
            sync(table.path)

    def success_curves(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Env steps per task (N,) and success per task name (N,). Raises UsageError if nothing was evaluated yet."""
        with intact(self.evaluations.path):
            rows = [(self.step_of(row), row["task"], float(row["success"])) for row in self.evaluations.read()]
            steps = np.array(sorted({step for step, _, _ in rows}))
            curves = {
                name: np.array([s for _, task, s in sorted(rows) if task == name]) for name in self.protocol.tasks
            }
            if strange := [success for _, _, success in rows if not 0 <= success <= 1]:
                raise ValueError(f"expected success rates of 0 to 1, found {strange[0]}")
            if short := [name for name, curve in curves.items() if len(curve) != len(steps)]:
                raise ValueError(f"expected one row of {short[0]} at each of {len(steps)} steps")
        if not rows:
            raise UsageError(f"{self.path} holds no evaluation yet: wait for the first one, or train longer.")
        return steps, curves


def evaluation_rows(env_steps_per_task: int, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows of evaluations.csv: one per task."""
    return [
        {
            "env_steps_per_task": env_steps_per_task,
            "task": task,
            "success": evaluation.success[i].mean(),
            "success_last": evaluation.success_last[i].mean(),
            "return": evaluation.returns[i].mean(),
            "episodes": evaluation.success.shape[1],
        }
        for i, task in enumerate(evaluation.task_names)
    ]


# What `save` leaves if it is killed before config.json makes the folder a run.
_BEGUN = (LOCK, "goals.npz", "versions.json", "protocol.json")
_RUN = (
    *("goals.npz", "versions.json", "versions-resumed.json", "protocol.json", "metrics.csv", "conflicts.csv"),
    *("evaluations.csv", "result.json", "postmortem.json", "tensorboard", "checkpoints", "tasks", "config.json"),
)


def require_new(path: Path) -> None:
    """Raises UsageError unless `path` is free for a new run, or holds no more than the beginning of one.

    A trial is in nobody's way: its files are removed, and no others.
    """
    if _is_trial(path):
        for item in (path / name for name in _RUN):  # config.json last: until then it is a trial
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)
    begun = {name + end for name in (*_BEGUN, "config.json") for end in ("", ".partial")} - {"config.json"}
    if path.is_file() or (path.is_dir() and any(item.name not in begun for item in path.iterdir())):
        name = shlex.quote(str(path))
        resume = f" or go on with that run: --resume {name}" if (path / "config.json").exists() else ""
        raise UsageError(f"expected a new or empty run folder; {name} is not empty. Choose another --run-dir{resume}")


def _is_trial(path: Path) -> bool:
    try:
        return read_json(path / "config.json").get("trial") is True
    except (OSError, ValueError):
        return False


def require_plain_files(path: Path) -> None:
    """Raises UsageError if a run folder holds a link, or something that is neither file nor folder, or one for the
    other."""
    for folder, folders, files in os.walk(path):  # passes over what a training takes away meanwhile
        for name in (*folders, *files):
            item = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                mode = item.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise UsageError(
                        f"expected a run folder of plain files; found the {'link' if stat.S_ISLNK(mode) else 'device'} "
                        f"{item}, and a run must not read or write elsewhere. Put a plain file in its place."
                    )
    for names, fits, expected in ((_FILES, Path.is_file, "a file"), (_FOLDERS, Path.is_dir, "a folder")):
        for name in names:
            if (path / name).exists() and not fits(path / name):
                raise UsageError(
                    f"the run in {path} is damaged: {path / name} is not {expected}. Restore it from a copy."
                )


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Inside, a file of a run is read: whatever goes wrong means that it is damaged, and raises UsageError.

    All errors, as readers of a damaged file meet many kinds: for flipped bytes, zipfile alone raises five.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing. Restore the file from a copy or train anew.") from error
    except Exception as error:
        found = str(error) or type(error).__name__
        raise UsageError(f"{path} is damaged: {found}. Restore the file from a copy or train anew.") from error


def write_goals(path: Path, goals: Mapping[str, np.ndarray]) -> None:
    """Writes goal vectors per task, whole or not at all."""
    with whole_file(path) as file:
        np.savez(file, **goals)  # type: ignore[arg-type]  # numpy's stub takes a flag there


def read_goals(path: Path) -> dict[str, np.ndarray]:
    """Goal vectors per task; arrays of numbers only, none of which unpacks to more than any suite has.

    Raises OSError, ValueError or what else zipfile raises for a damaged file.
    """
    _require_size(path, _MOST_GOALS)
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MOST_GOALS:
            raise ValueError(f"it unpacks to more than {_MOST_GOALS} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes indented JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError or ValueError."""
    _require_size(path, _MOST_JSON)
    values = json.loads(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return values


def _require_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes, expected at most {most:,}")


def _numbers(row: Mapping[str, str], *words: str) -> dict[str, float]:
    """The cells of a row that are not empty; all but `words` are numbers. Raises ValueError or TypeError otherwise."""
    return {name: float(cell) for name, cell in row.items() if cell and name not in words}


def _versions() -> dict[str, Any]:
    software = {name: version(name) for name in _SOFTWARE} | {"revision": _revision()}
    return software | {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}


@functools.cache
def _revision() -> str:
    """The commit of this code, and a digest of what was changed since; empty where there is no git."""
    if not (_ROOT / ".git").exists():
        return ""
    commands = (("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"), ("diff", "--no-ext-diff", "HEAD"))
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, check=True).stdout
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    found = commit.decode().strip()
    return f"{found}-{hashlib.sha256(changes).hexdigest()[:12]}" if changes else found
