"""Where the runs of a sweep are executed: one small interface, and this machine behind it.

Another one (a cluster's queue) is a class that is a `Launcher`, and a row in LAUNCHERS.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

from agents.saving.atomic import not_through_links
from envs import machine
from scripts.common.signals import SWEEP, listening
from scripts.common.usage import UsageError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Started(Protocol):
    """A training that was started."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; below 0: the signal that killed it."""

    def stop(self, at_once: bool = False) -> None:
        """Ask it to stop with a checkpoint; at once: without one. Returns immediately."""


Number = Literal["auto"] | int


class Launcher(Protocol):
    """Starts trainings. `str(launcher)` says, as part of a sentence, how much runs at once."""

    at_once: int  # trainings side by side
    flags: tuple[str, ...]  # of scripts.train, for each that begins: its share of the machine

    def start(self, argv: Sequence[str], log: Path) -> Started:
        """Start `python -m scripts.train ARGV`; what it prints goes to the end of `log`."""


class LocalProcess:
    """A training in a process of its own on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; below 0: the signal that killed it."""
        return self.process.poll()

    def stop(self, at_once: bool = False) -> None:
        """Send SIGTERM, on which a training saves, or SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)


class LocalLauncher:
    """Trainings as processes of this machine, which share its cores.

    :param jobs: trainings at once; auto: one per core, as one thread each makes the most of a machine.
    :param threads: threads of each; auto: cores / trainings at once.
    :param runs: how many trainings there are.
    :raises UsageError: for a number below 1.
    """

    def __init__(self, jobs: Number, threads: Number, runs: int) -> None:
        for name, number in (("jobs", jobs), ("threads", threads)):
            if number != "auto" and number < 1:
                raise UsageError(f"--{name}: expected auto or at least 1; found {number}.")
        self.at_once = min(machine.cores(), max(runs, 1)) if jobs == "auto" else jobs
        self.threads = max(1, machine.cores() // self.at_once) if threads == "auto" else threads
        self.flags: tuple[str, ...] = ("--threads", str(self.threads))
        libraries = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))  # torch's own number is the flag
        self.environment = {**os.environ, **libraries, SWEEP: str(os.getpid())}

    def __str__(self) -> str:
        return f"{self.at_once} at once, torch threads of each: {self.threads}"

    def start(self, argv: Sequence[str], log: Path) -> LocalProcess:
        """Start a process in its own session: Ctrl-C in the terminal reaches the sweep alone, which tells it once."""
        with open(log, "ab", opener=not_through_links) as file:
            return LocalProcess(
                subprocess.Popen(
                    [sys.executable, "-m", "scripts.train", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
            )


LAUNCHERS: dict[str, Callable[[Number, Number, int], Launcher]] = {"local": LocalLauncher}  # (jobs, threads, runs)


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


def execute(
    commands: Mapping[str, tuple[Sequence[str], Path]],
    launcher: Launcher,
    stop: Stop,
    tell: Callable[[dict[str, Started], dict[str, int]], None],
    every: float = 0.5,
) -> dict[str, int]:
    """Run all commands, as many at once as the launcher allows, until they end or `stop` hears a signal.

    Returns name -> exit code.

    One that fails does not stop the others. What was not started has no exit code.

    :param commands: name -> (arguments of scripts.train, log).
    :param tell: called again and again with those that run and the exit codes so far.
    :param every: seconds between two looks.
    """
    waiting, running, codes = list(commands), dict[str, Started](), dict[str, int]()
    told = 0  # 1: to stop, 2: at once
    try:
        while running or (waiting and not stop.signal):
            while waiting and len(running) < launcher.at_once and not stop.signal:
                name = waiting.pop(0)
                running[name] = launcher.start(*commands[name])
            if told < (wish := bool(stop.signal) + stop.at_once):
                told = wish
                for started in running.values():
                    started.stop(stop.at_once)
            tell(running, codes)
            time.sleep(every)
            ended = {name: code for name, started in running.items() if (code := started.poll()) is not None}
            codes |= ended
            for name in ended:
                del running[name]
    finally:
        for started in running.values():  # an error of ours leaves no training behind
            started.stop()
    tell(running, codes)
    return codes
