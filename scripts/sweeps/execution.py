"""The runs of a sweep, started and watched until all have ended or a signal asks to stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

from scripts.common.command import EXIT_DISK, EXIT_IN_USE, EXIT_WORKER
from scripts.common.signals import STOP_SIGNALS, listening
from scripts.sweeps.launchers import Launcher, Started
from scripts.sweeps.plan import Job

# Exit codes that the same command may not meet again, and seconds to wait before it is tried
AGAIN = {EXIT_WORKER: 0.0, EXIT_DISK: 60.0, EXIT_IN_USE: 60.0}


class Stop:
    """A signal that asks to stop: all runs, with checkpoints; Ctrl-C after that: at once.

    As in a training, any other second signal changes nothing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.signal = 0  # the number of the first
        self.at_once = False

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Take over the signals and give them back."""
        return listening(self._press)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            self.at_once = self.at_once or number == signal.SIGINT
            return
        self.signal = number
        self.say("Stopping all runs with a checkpoint. Press Ctrl-C again to quit without saving.")


class Attempts:
    """How often each run was tried, and when one is tried again.

    :param most: how often again.
    :param preempted: whether a signal that was not ours says that a run lost its node: it goes on, and is not counted.
    """

    def __init__(self, most: int, say: Callable[[str], None], preempted: bool) -> None:
        self.most, self.say, self.preempted = most, say, preempted
        self.made: dict[str, int] = {}
        self.due: dict[str, float] = {}  # name -> when

    def again(self, name: str, code: int, stopped: bool) -> bool:
        """Whether a run that ended with `code` is tried again; says so.

        :param stopped: whether we asked it to stop.
        """
        if self.preempted and not stopped and code - 128 in STOP_SIGNALS:
            self.say(f"{name}: its node was taken away ({described(code)}); it goes on")
            return True
        made = self.made[name] = self.made.get(name, 0) + 1
        killed = code < 0 and -code not in STOP_SIGNALS  # by the system, for its memory say
        if made > self.most or (code not in AGAIN and not killed):
            return False
        seconds = AGAIN.get(code, 0.0)
        self.due[name] = time.monotonic() + seconds
        when = f" in {seconds:.0f} s" if seconds else ""
        self.say(f"{name}: {described(code)}; it goes on{when} (try {made + 1} of {self.most + 1})")
        return True

    def is_due(self, name: str) -> bool:
        """Whether a run that waits may be started."""
        return time.monotonic() >= self.due.get(name, 0.0)


def stopped_by_signal(code: int) -> bool:
    """Whether a training ended as a signal asked: with a checkpoint, or before it listened."""
    return -code in STOP_SIGNALS or code - 128 in STOP_SIGNALS


def described(code: int) -> str:
    """Say how a training ended."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def execute(
    jobs: Iterable[Job],
    launcher: Launcher,
    stop: Stop,
    tell: Callable[[dict[str, Started], dict[str, int]], None],
    retries: int = 0,
    every: float = 0.5,
) -> dict[str, int]:
    """Run all jobs, as many at once as the launcher allows, until they end or `stop` hears a signal.

    Returns name -> exit code. One that fails does not stop the others. What was not started has no exit code.

    :param jobs: each is taken from it when there is a place for it.
    :param tell: called again and again with those that run and the exit codes so far.
    :param retries: how often a run is tried again that ended with one of `AGAIN` or was killed by the system.
    :param every: seconds between two looks.
    """
    new, waiting, begun = iter(jobs), list[Job](), dict[str, Job]()
    running, codes = dict[str, Started](), dict[str, int]()
    attempts = Attempts(retries, stop.say, launcher.remote)
    told = 0  # 1: to stop, 2: at once

    def following() -> Job | None:
        if job := next(new, None):
            return job
        due = (i for i, job in enumerate(waiting) if attempts.is_due(job.name))
        return waiting.pop(i) if (i := next(due, None)) is not None else None

    try:
        while True:
            while not stop.signal and len(running) < launcher.at_once and (job := following()):
                begun[job.name] = job
                running[job.name] = launcher.start(job)
            if not running and (stop.signal or not waiting):
                break
            if told < (wish := bool(stop.signal) + stop.at_once):
                told = wish
                for started in running.values():
                    started.stop(stop.at_once)
            tell(running, codes)
            time.sleep(every)
            ended = {name: code for name, started in running.items() if (code := started.poll()) is not None}
            for name, code in ended.items():
                started = running.pop(name)
                if not stop.signal and attempts.again(name, code, started.stopped):
                    waiting.append(begun[name])
                else:
                    codes[name] = code
    finally:
        for started in running.values():  # an error of ours leaves no training behind
            started.stop()
    tell(running, codes)
    return codes
