"""The launcher `local`: trainings side by side on this machine."""

from __future__ import annotations

import contextlib
import signal
import subprocess

from envs import machine
from scripts.common.usage import UsageError
from scripts.sweeps.child import Command
from scripts.sweeps.plan import Job
from scripts.sweeps.request import SweepConfig


class LocalProcess:
    """A training in a process of its own on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.stopped = process, False

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; below 0: the signal that killed it."""
        return self.process.poll()

    def stop(self, at_once: bool = False) -> None:
        """Send SIGTERM, on which a training saves, or SIGKILL."""
        self.stopped = True
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)


class LocalLauncher:
    """Trainings as processes of this machine, which share its cores.

    :param request: `jobs`, trainings at once; auto: one per core, as one thread each makes the most of a machine.
        `threads` of each; auto: cores / trainings at once.
    :param runs: how many trainings there are.
    :raises UsageError: for resources that only a cluster has.
    """

    remote = False

    def __init__(self, request: SweepConfig, runs: int) -> None:
        for name in ("cpus", "gpus", "options"):
            if getattr(request, name) != getattr(SweepConfig, name):
                raise UsageError(
                    f"--{name}: expected --launcher ray or slurm, which share a cluster out; found --launcher local. "
                    "Here it is --jobs and --threads."
                )
        self.at_once = min(machine.cores(), max(runs, 1)) if request.jobs == "auto" else request.jobs
        self.threads = max(1, machine.cores() // self.at_once) if request.threads == "auto" else request.threads

    def __str__(self) -> str:
        return f"{self.at_once} at once, torch threads of each: {self.threads}"

    def command(self, job: Job) -> Command:
        """Return what `start` runs."""
        return Command(job.argv, job.log, self.threads)

    def start(self, job: Job) -> LocalProcess:
        """Start a process."""
        return LocalProcess(self.command(job).begin())
