"""A search for settings as an Optuna study, whose trials are runs of a sweep; all of it is in one folder.

    study.db      the study, in SQLite         PRESET-NUMBER-seedSEED/   the run of each trial
    winner.toml   the best trial as a preset   logs/                     what the runs printed

A trial's result is the success of its last evaluation, the mean over tasks. Those on the way are reported too, and
the median rule (Golovin et al. 2017, section 3.2.2) stops a trial that is below the median of the others.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.fields import names_of
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.results import latest_evaluation
from scripts.setup.config import TrainConfig
from scripts.sweeps.board import is_finished
from scripts.sweeps.execution import AGAIN, described, stopped_by_signal
from scripts.sweeps.launchers import Started
from scripts.sweeps.plan import Job
from scripts.sweeps.space import Dimension

if TYPE_CHECKING:
    import optuna

_ASKED = "asked"  # the attribute of a study that says what it is of


@contextlib.contextmanager
def study_errors(path: Path, *more: type[Exception]) -> Iterator[None]:
    """Inside, what the file of a study, or Optuna, cannot do is a UsageError, and a full disk an OSError.

    :param more: errors that are such ones, too.
    """
    import optuna
    import sqlalchemy

    kinds: tuple[type[Exception], ...] = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, *more)
    try:
        yield
    except kinds as error:
        cause: BaseException = error
        while cause.__cause__:  # Optuna's error is of SQLAlchemy's, that of SQLite's
            cause = cause.__cause__
        if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        found = str(cause).splitlines()[0].rstrip(".")
        raise UsageError(
            f"expected a study of scripts.tune at {path}; found: {found}. Choose another --out."
        ) from error


class Search:
    """The trials of a study, as jobs to begin and as runs to follow.

    :param path: its file, made if it is not there.
    :param config: what every trial begins from.
    :param trials: how many there are in all.
    :param make: (number of a trial, values) -> its run.
    :param say: prints a line.
    :raises UsageError: if the file holds a study of something else, or is none.
    """

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        space: Sequence[Dimension],
        trials: int,
        make: Callable[[int, Mapping[str, Any]], Job],
        say: Callable[[str], None],
    ) -> None:
        self.trials, self.make, self.say = trials, make, say
        self.study = _open(path, config, space)
        self.distributions = {dimension.name: dimension.distribution() for dimension in space}
        self.live: dict[str, optuna.Trial] = {}  # name of its run -> one that is not over
        self.jobs: dict[str, Job] = {}
        self._pruned: set[str] = set()
        self._reported: dict[str, set[int]] = {}  # name of a run -> steps of its evaluations in the study

    @property
    def over(self) -> int:
        """How many trials are over: complete, pruned or failed."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def begin(self) -> Iterator[Job]:
        """Yield the trials that were stopped, then new ones, each chosen when it is asked for."""
        import optuna

        stopped = self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        for frozen in stopped:
            yield from self._job(optuna.Trial(self.study, frozen._trial_id))
        while len(self.study.get_trials(deepcopy=False)) < self.trials:
            yield from self._job(self.study.ask(self.distributions))

    def _job(self, trial: optuna.Trial) -> Iterator[Job]:
        try:
            job = self.make(trial.number, trial.params)
        except UsageError as error:  # values that do not go together
            self._tell(trial, f"trial {trial.number}", error=str(error))
            return
        self.live[job.name], self.jobs[job.name] = trial, job
        self._reported[job.name] = {*self.study.get_trials(deepcopy=False)[trial.number].intermediate_values}
        yield job

    def follow(self, running: Mapping[str, Started], codes: Mapping[str, int], stopping: bool) -> None:
        """Report evaluations, stop trials that are not worth going on with, and close those that ended.

        :param codes: how they ended; one that was stopped stays open, and goes on with the next command.
        :param stopping: whether all are to stop.
        """
        for name, trial in list(self.live.items()):
            job = self.jobs[name]
            if name not in running and name not in codes:
                continue
            for step, success in _evaluations(job.path).items():
                if step < job.config.steps_per_task and step not in self._reported[name]:
                    trial.report(success, step)
                    self._reported[name].add(step)
            if name in running:
                if name not in self._pruned and trial.should_prune():
                    self._pruned.add(name)
                    running[name].stop()
            elif not self._was_stopped(name, codes[name], stopping):
                self._close(name, trial, codes[name])

    def _was_stopped(self, name: str, code: int, stopping: bool) -> bool:
        return (stopped_by_signal(code) and name not in self._pruned) or (stopping and code < 0)

    def _close(self, name: str, trial: optuna.Trial, code: int) -> None:
        del self.live[name]
        if code in AGAIN:  # of the machine, not of the settings
            self.say(f"{name}: {described(code)}; the same command tries it again")
        elif code == 0 and is_finished(self.jobs[name].path):
            found = latest_evaluation(Run(self.jobs[name].path))
            success = found["mean"]["success"] if found else None
            self._tell(trial, name, success, "" if success is not None else "its tasks report no success")
        else:
            self._tell(trial, name, error="" if name in self._pruned else f"exit code {code}")

    def _tell(self, trial: optuna.Trial, name: str, success: float | None = None, error: str = "") -> None:
        from optuna.trial import TrialState

        state = TrialState.COMPLETE if success is not None else TrialState.FAIL if error else TrialState.PRUNED
        self.study.tell(trial, success, state)
        ended = f"failed: {error}" if error else "stopped early" if success is None else f"success {success:.2f}"
        values = ", ".join(f"{key} {shown(value)}" for key, value in trial.params.items())
        self.say(f"{self.over} of {self.trials}: {name}: {ended} ({values})")

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        """The trial with the highest success so far; None before one is complete."""
        return self.study.best_trial if self._complete else None

    @property
    def _complete(self) -> int:
        from optuna.trial import TrialState

        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def importance(self) -> dict[str, float]:
        """Return the share of each setting in what makes trials good (PED-ANOVA, Watanabe et al. 2023).

        It is empty where fewer than four trials are complete.
        """
        import optuna

        return optuna.importance.get_param_importances(self.study) if self._complete >= 4 else {}


def shown(value: Any) -> str:
    """Return a value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evaluations(path: Path) -> dict[int, float]:
    """Return step per task -> success, the mean over tasks that report it."""
    try:
        steps, curves = Run(path).success_curves()
    except (UsageError, OSError, ValueError):  # nothing there yet, or caught while it is being written
        return {}
    means = np.ma.masked_invalid(list(curves.values())).mean(0)
    return {int(step): float(mean) for step, mean in zip(steps, means, strict=True) if mean is not np.ma.masked}


def _open(path: Path, config: TrainConfig, space: Sequence[Dimension]) -> optuna.Study:
    import optuna
    import sqlalchemy

    if path.is_symlink():
        raise UsageError(
            f"expected a file of scripts.tune at {path}; found a link. Put what it points at in its place."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = {name: value for name, value in config.to_json().items() if name not in names_of(TrainConfig, "machine")}
    asked = json.loads(json.dumps({**asked, "searched": sorted(map(str, space))}))
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()
    with study_errors(path, RuntimeError):  # which is of a study of another version
        tables = sqlalchemy.inspect(sqlalchemy.create_engine(url)).get_table_names()
        if tables and "studies" not in tables:  # Optuna would put its own beside them
            raise RuntimeError("a database of something else")
        storage = optuna.storages.RDBStorage(url)
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(),
        )
        there = study.user_attrs.get(_ASKED)
        if new := there is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(_ASKED, asked)
    if not new and there != asked:
        there = there or {}
        names = sorted(name for name in asked.keys() | there.keys() if asked.get(name) != there.get(name))
        raise UsageError(
            f"expected at {path} the study that is asked for; found one with other settings: "
            f"{', '.join(f'{n} ({asked.get(n)} asked, {there.get(n)} there)' for n in names)}. Choose another --out."
        )
    # as many draws on, or a study that goes on would begin with the same ones again
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials), constant_liar=True)
    return study
