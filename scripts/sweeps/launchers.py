"""Where the runs of a sweep are executed: one small interface, and what is behind it by name.

Another one is a class that is a `Launcher`, and a row in LAUNCHERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scripts.sweeps.child import Command
from scripts.sweeps.local import LocalLauncher
from scripts.sweeps.plan import Job
from scripts.sweeps.ray_tasks import RayLauncher
from scripts.sweeps.request import SweepConfig
from scripts.sweeps.slurm_jobs import SlurmLauncher


class Started(Protocol):
    """A training that was started."""

    stopped: bool  # whether `stop` was called

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; below 0: the signal that killed it.

        :raises UsageError: if it could not begin, and none can.
        """

    def stop(self, at_once: bool = False) -> None:
        """Ask it to stop with a checkpoint; at once: without waiting for one. Returns immediately."""


class Launcher(Protocol):
    """Starts trainings. `str(launcher)` says, as part of a sentence, how much runs at once."""

    at_once: int  # trainings that are started and have not ended
    remote: bool  # whether other machines may run them, which a table then names

    def command(self, job: Job) -> Command:
        """Return what `start` runs: `job` with its share of a machine."""

    def start(self, job: Job) -> Started:
        """Start a training."""


LAUNCHERS: dict[str, Callable[[SweepConfig, int], Launcher]] = {  # (request, runs that are left)
    "local": LocalLauncher,
    "ray": RayLauncher,
    "slurm": SlurmLauncher,
}
