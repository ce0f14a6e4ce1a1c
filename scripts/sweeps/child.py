"""One training of a sweep as a process: here, or on the node of a cluster that was given to it."""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.saving.atomic import not_through_links
from envs.children import python, python_path
from scripts.common.signals import SWEEP, listening
from scripts.common.usage import UsageError, choose, require_package
from scripts.runs.claim import node
from scripts.sweeps.plan import Job
from scripts.sweeps.request import SweepConfig

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WITH_IT = ("STEPS",)  # environment variables that say what a training does, so they go to other nodes, too
LOOK_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Command:
    """`python -m scripts.train ARGV` with so many threads; what it prints goes to the end of `log`."""

    argv: tuple[str, ...]
    log: Path
    threads: int

    @property
    def words(self) -> tuple[str, ...]:
        """All arguments of scripts.train."""
        return (*self.argv, "--threads", str(self.threads))

    def begin(self, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start it in a session of its own: Ctrl-C in the terminal reaches the sweep alone, which tells it once.

        It saves and ends when this process dies: nobody would know of it.
        """
        libraries = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))  # torch's own number is the flag
        with open(self.log, "ab", opener=not_through_links) as file:
            return subprocess.Popen(
                python("scripts.train", *self.words),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **python_path(), **libraries, SWEEP: str(os.getpid()), **(variables or {})},
                start_new_session=True,
            )


@dataclass(frozen=True)
class NodeJob:
    """A command for another node, which sees the same files: plain values, as they travel.

    :param folder: where the sweep was started; relative paths begin there.
    :param variables: of the sweep's environment.
    """

    command: Command
    folder: str
    variables: Mapping[str, str]

    @classmethod
    def of(cls, command: Command, gpus: float = 0) -> NodeJob:
        """From here; the log is made, by which the node knows that it sees these files.

        :param gpus: how many it may use, which the engine chooses; without one, all are hidden.
        """
        os.close(not_through_links(str(command.log), os.O_WRONLY | os.O_CREAT))
        variables = {name: os.environ[name] for name in _WITH_IT if name in os.environ}
        return cls(command, os.getcwd(), variables if gpus else {**variables, "CUDA_VISIBLE_DEVICES": ""})

    def run(self, signals: Collection[int]) -> int | str:
        """Train, on this node; return the exit code, or what the user has to put right.

        :param signals: by which the engine asks it to stop, with a checkpoint.
        """
        folder, asked, told = Path(self.folder), list[int](), False
        for path in (folder, folder / self.command.log):
            if not path.exists():
                return (
                    f"expected a file system that all nodes share; {node()} does not see {path}. Run the sweep where "
                    "every node sees it under this name."
                )
        os.chdir(folder)
        with listening(lambda number, frame: asked.append(number), signals):
            child = self.command.begin(self.variables)
            while (code := child.poll()) is None:  # a wait would be a system call, which engines cannot interrupt
                if asked and not told:
                    told = True
                    child.terminate()
                time.sleep(LOOK_EVERY)
        return code


class NodeLauncher:
    """What launchers of a cluster share: it has its own queue, and each run a share of a node.

    :param request: `cpus` and `gpus` of each run; `jobs` that the cluster is given at once, auto: all.
    :param runs: how many trainings there are.
    """

    remote = True
    unit: str  # what a run is there

    def __init__(self, request: SweepConfig, runs: int) -> None:
        self.request = request
        self.at_once = max(runs, 1) if request.jobs == "auto" else request.jobs

    def __str__(self) -> str:
        gpus = f", GPUs of each: {self.request.gpus:g}" if self.request.gpus else ""
        return f"a {self.unit} each{gpus}"

    def command(self, job: Job) -> Command:
        """Return what `start` runs."""
        return Command(job.argv, job.log, cores_of(job, self.request)[0])


def cores_of(job: Job, request: SweepConfig) -> tuple[int, int]:
    """Torch threads and cores that a run has on a node: --threads, --cpus; auto: a thread, and a core for each worker.

    :return: threads, cores.
    """
    workers = job.config.workers if isinstance(job.config.workers, int) else 0
    threads = max(1, request.cpus - workers) if request.cpus != "auto" else 1
    threads = threads if request.threads == "auto" else request.threads
    return threads, threads + workers if request.cpus == "auto" else request.cpus


def options_of(request: SweepConfig, known: Collection[str] | None = None) -> dict[str, str]:
    """Return --options KEY=VALUE,... by key.

    :param known: the keys that there are; None: the engine knows.
    :raises UsageError: for something else.
    """
    pairs = [word.partition("=") for word in request.options]
    if wrong := [word for word, (key, is_, value) in zip(request.options, pairs, strict=True) if not (key and value)]:
        raise UsageError(f"--options: expected KEY=VALUE, separated by commas; found {wrong[0]!r}.")
    for key, *_ in pairs:
        if known is not None:
            choose(f"option of --launcher {request.launcher}", key, known)
    return {key: value for key, _, value in pairs}


def imported(package: str, request: SweepConfig, extra: str) -> Any:
    """Import the engine of a launcher.

    :raises UsageError: if it is not installed, or broken.
    """
    where = f"--launcher {request.launcher}: "
    require_package(package, extra, where)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(f"{where}expected a whole package {package}; found: {error}. Install it anew.") from error
