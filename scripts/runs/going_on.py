"""One command for the whole life of a run: it begins, goes on, or is over, as its folder says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from agents import NonFiniteError
from agents.fields import names_of
from agents.saving.checkpoint import checkpoints
from scripts.common.usage import UsageError
from scripts.runs.claim import claimed
from scripts.runs.files import as_usage_error, read_json
from scripts.runs.folder import Run
from scripts.runs.session import Session
from scripts.runs.starting import new_session, saved_session
from scripts.setup.build import RESUMABLE, run_path
from scripts.setup.config import TrainConfig
from scripts.setup.parse import Resume

Action = Literal["begin", "resume", "finished", "failed"]

# What a machine decides; a longer run is checked by itself.
_FREE = names_of(TrainConfig, "machine") | {"steps_per_task"}


def next_action(path: Path, config: TrainConfig) -> Action:
    """Return what is to be done for the run that `config` describes; nothing where it is finished or failed.

    :param path: its folder, which may not be there yet.
    :raises UsageError: if another run is there, or this one cannot be made longer.
    """
    if not (path / "config.json").exists():
        return "begin"
    run = Run(path).verified()
    if run.config.trial:  # training anew replaces it
        return "begin"
    _require_same(path, config, run)
    steps = config.steps_per_task
    if steps == run.config.steps_per_task and (found := run.status) != "unfinished":
        return found
    if not checkpoints(run.checkpoints) and (path / "result.json").exists():
        raise UsageError(
            f"{path} has no checkpoint to go on from to {steps:,} steps. Train anew in another --run-dir or --out."
        )
    return "resume"


def _require_same(path: Path, config: TrainConfig, run: Run) -> None:
    asked, found = config.to_json(), run.config.to_json()
    different = [
        f"{n} ({asked[n]} asked, {found[n]} there)"
        for n in asked
        if n not in _FREE and asked[n] not in ("auto", found[n])  # auto: what the machine gave when the run began
    ]
    if config.steps_per_task < run.config.steps_per_task:
        different.append(f"steps_per_task ({config.steps_per_task} asked, {run.config.steps_per_task} there)")
    if different:
        raise UsageError(
            f"expected at {path} the run that is asked for; found one with other settings: {', '.join(different)}. "
            "Choose another --run-dir or --out."
        )


def go_on(config: TrainConfig, stack: contextlib.ExitStack) -> Session | None:
    """Begin the run of `config`, or go on with it as far as the config says how; None where it is finished.

    :raises InUse: if another process trains there.
    :raises NonFiniteError: if it failed before: the same command would fail again.
    """
    path = run_path(config)
    stack.enter_context(claimed(path))  # first: what there is to do changes no more
    action = next_action(path, config)
    if action == "begin":
        return new_session(config, stack)
    run = Run(path)
    if action == "failed":
        with as_usage_error(path / "postmortem.json"):
            found = read_json(path / "postmortem.json")
            error = NonFiniteError(found["task"], found["quantity"], found["update"], found.get("source"))
        raise error
    if action == "finished":
        return None
    asked, there = config.to_json(), run.config.to_json()
    changes = {n: getattr(config, n) for n in RESUMABLE & _FREE if asked[n] not in ("auto", there[n])}
    # its code is that of the command: `_require_same` saw to it
    return saved_session(Resume(str(path), changes, config.progress, run_code=True), run, stack)
