"""Train one agent on many tasks.

python -m scripts.train toy                        under a minute: does everything work?
python -m scripts.train mt10-quick                 MT10 with settings for one CPU core
python -m scripts.train mt10 --aggregator mean     the settings of Meta-World+, the mean as a baseline
python -m scripts.train mt10 --go-on               begin this run, resume it, or say that it is finished
python -m scripts.train --resume runs/mt10-mean-seed0
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from scripts.common import command
from scripts.common.screen import Screen
from scripts.common.signals import follow_sweep
from scripts.runs.going_on import go_on
from scripts.runs.progress import StopSwitch
from scripts.runs.session import Session, conclude, train
from scripts.runs.starting import introduce, resume, start
from scripts.setup.build import run_path
from scripts.setup.config import TrainConfig
from scripts.setup.parse import GoOn, Resume, parse_train
from scripts.setup.presets import from_file


def main(argv: Sequence[str]) -> int:
    """Train as `argv` says; return the exit code."""
    follow_sweep()
    request = parse_train(argv)
    if request is None:
        return 0
    with contextlib.ExitStack() as stack:
        with from_file(argv[0]):
            session = _begin(request, stack)
        if session is None:
            return 0
        introduce(session)
        switch = StopSwitch(session.console)
        stack.enter_context(switch.listening())  # to the very end: schedulers signal twice
        stopped_by = train(session, switch)
        conclude(session, "interrupted" if stopped_by else "finished", argv)
    return 128 + stopped_by if stopped_by else 0  # as shells report a signal


def _begin(request: TrainConfig | Resume | GoOn, stack: contextlib.ExitStack) -> Session | None:
    """Begin what is asked for, or go on with it; None, which is said, where nothing is left to do."""
    if isinstance(request, Resume):
        return resume(request, stack)
    if isinstance(request, TrainConfig):
        return start(request, stack)
    session = go_on(request.config, stack)
    if session is None:
        Screen().print(f"{run_path(request.config)} is finished: nothing is left to do.", soft_wrap=True)
    return session


if __name__ == "__main__":
    command.run(main, files=True)
