"""Where the numbers of a training go: metrics, conflicts and evaluations alike, to every logger that the run names.

A logger is a class with `metrics` and a row in LOGGERS. What else it can show, it says by `conflicts` and `evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys

from agents.evaluation import Evaluation
from scripts.common.usage import UsageError, choose, require_package
from scripts.runs.folder import Run
from scripts.runs.run_logger import Cosines, CurveLogger, RunLogger
from scripts.runs.tables import STEP
from scripts.runs.trackers import MLflowLogger, TrackioLogger, WandbLogger

_COSINES = "cosines/"  # under which an agent logs a matrix per network


class CsvLogger(RunLogger):
    """The tables of the run folder, which resume, evaluations, comparison and plots read."""

    essential = True

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a row to metrics.csv."""
        self.run.metrics.append([{STEP: step, **dict(sorted(values.items()))}])

    def conflicts(self, step: int, cosines: Cosines) -> None:
        """Append a row to conflicts.csv per network, with a column per pair of tasks."""
        tasks = list(enumerate(self.run.protocol.tasks))
        pairs = {f"{a}|{b}": (i, j) for i, a in tasks for j, b in tasks if i < j}
        self.run.conflicts.append(
            {STEP: step, "network": network, **{pair: f"{matrix[ij]:.4f}" for pair, ij in pairs.items()}}
            for network, matrix in cosines.items()
        )

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Append a row to evaluations.csv per task."""
        self.run.add_evaluation(step, evaluation)


class TensorBoardLogger(CurveLogger):
    """Event files for TensorBoard."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.format = TensorBoardOutputFormat(str(run.path / "tensorboard"))

    def draw(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        self.format.write(dict(values), dict.fromkeys(values, ()), step)

    def close(self) -> None:
        """End the event file."""
        self.format.close()


LOGGERS: dict[str, type[RunLogger]] = {
    "csv": CsvLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MLflowLogger,
    "trackio": TrackioLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Look at --loggers and --track before anything is made.

    :raises UsageError: for an unknown name or one that stands twice, without `csv`, and where its package is missing.
    """
    for name in names:
        if package := LOGGERS[choose("logger", name, LOGGERS)].package:
            require_package(package, "track" if package != "trackio" else "", f"--track {name}: ")
    if len(set(names)) < len(names):
        raise UsageError(f"--loggers: expected each once; found {', '.join(names)}.")
    if "csv" not in names:
        raise UsageError(
            f"--loggers: expected csv among them, as resume, evaluation and plots read its files; found "
            f"{', '.join(names) or 'none'}. Add it."
        )


class Loggers(KVWriter):
    """The loggers of a run, as one of Stable-Baselines3's output formats.

    One that is not essential cannot end a training: if it fails, that is said, and it is told nothing any more.

    :param say: how to print a line.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.say, self.loggers = say, dict[str, RunLogger]()
        for name in run.config.loggers:
            with self._guarded(name):
                self.loggers[name] = LOGGERS[name](run)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Pass on what Stable-Baselines3's logger has gathered."""
        numbers = {key: value for key, value in key_values.items() if not key.startswith(_COSINES)}
        cosines = {key.removeprefix(_COSINES): key_values[key] for key in key_values if key not in numbers}
        for name, logger in list(self.loggers.items()):
            with self._guarded(name):
                logger.metrics(step, filter_excluded_keys(numbers, key_excluded, name))
                if cosines:
                    logger.conflicts(step, cosines)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Pass on an evaluation."""
        for name, logger in list(self.loggers.items()):
            with self._guarded(name):
                logger.evaluation(step, evaluation)

    def close(self) -> None:
        """Close all."""
        for name, logger in list(self.loggers.items()):
            with self._guarded(name):
                logger.close()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Inside, an error of this logger costs no more than the logger, unless it is essential."""
        try:
            yield
        except Exception as error:
            if LOGGERS[name].essential:
                raise
            self.loggers.pop(name, None)
            self.say(f"The logger {name} failed and is left out from here on: {type(error).__name__}: {error}")


class PerTask(Logger):
    """Stable-Baselines3's logger, over steps per task, as all that people see; the agent counts those of all tasks.

    :param loggers: what it writes to.
    :param num_tasks: T.
    """

    def __init__(self, loggers: Loggers, num_tasks: int) -> None:
        super().__init__(None, [loggers])
        self.num_tasks = num_tasks

    def dump(self, step: int = 0) -> None:
        """Write what was recorded, at this step of all tasks together."""
        super().dump(step // self.num_tasks)
