"""The launcher `slurm`: every run is a batch job, submitted by submitit, and submitted again until it is finished."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shutil
import signal
import subprocess
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.saving.atomic import whole_file
from envs.signals import STOP_SIGNALS
from scripts.common.usage import UsageError
from scripts.sweeps.child import NodeJob, NodeLauncher, cores_of, imported, options_of
from scripts.sweeps.plan import Job
from scripts.sweeps.request import SweepConfig

SAVING = 120  # seconds before the limit of time at which Slurm tells a run to save
DAY = 24 * 60  # minutes, the limit of time unless --options has another
LOOK_EVERY = 10.0  # seconds between two looks at the queue
SILENT = 300.0  # seconds without an answer after which the user is told
LATE = 30.0  # seconds after which a shared file system shows a new file


@dataclass(frozen=True)
class SlurmTask:
    """What runs on the node. Its answer is a file: Slurm's exit codes tell nothing of a job that was begun again."""

    job: NodeJob
    answer: Path

    def __call__(self) -> None:
        """Train; Slurm asks to stop by whatever signal it is told to send."""
        found = self.job.run(STOP_SIGNALS)
        with whole_file(self.answer) as file:
            file.write(json.dumps(found).encode())


class Queue:
    """The jobs of this user that wait or run, asked for now and then: Slurm answers for many at the cost of one."""

    def __init__(self) -> None:
        self._there = set[str]()
        self._asked, self._answered, self._told = float("-inf"), time.monotonic(), False

    def has(self, job_id: str, since: float) -> bool:
        """Whether a job is in the queue; one submitted after the last look is, and all while Slurm is silent."""
        if time.monotonic() - self._asked > LOOK_EVERY:
            self._look()
        # silent: busy, or its controller begins anew
        return self._asked > self._answered or job_id in self._there or since > self._answered

    def _look(self) -> None:
        asked = subprocess.run(["squeue", "--me", "-h", "-o", "%A"], capture_output=True, text=True)
        self._asked = time.monotonic()
        if not asked.returncode:
            self._there, self._answered, self._told = set(asked.stdout.split()), self._asked, False
        elif self._asked - self._answered > SILENT and not self._told:
            self._told = True
            found = asked.stderr.strip() or f"exit code {asked.returncode}"
            warnings.warn(
                f"squeue has not answered for {SILENT / 60:.0f} minutes ({found}); the sweep waits on", stacklevel=2
            )


class SlurmJob:
    """A training that Slurm runs, or will run.

    :param submitted: submitit's job, which knows where its node writes.
    :param answer: the file that the task leaves at its end.
    """

    def __init__(self, submitted: Any, answer: Path, queue: Queue) -> None:
        self.job_id, self.paths, self.answer, self.queue = submitted.job_id, submitted.paths, answer, queue
        self.stopped, self.began, self.missed = False, time.monotonic(), 0.0

    def poll(self) -> int | None:
        """Its exit code, or None while it runs or waits; below 0: the signal that killed it."""
        if self.answer.exists():
            return self._code(json.loads(self.answer.read_text()))
        if self.queue.has(self.job_id, self.began):
            self.missed = 0.0
            return None
        if self.stopped:
            return 128 + signal.SIGTERM
        self.missed = self.missed or time.monotonic()
        if time.monotonic() - self.missed < LATE:
            return None
        if not self.paths.stdout.exists():
            raise UsageError(
                f"--launcher slurm: expected a file system that all nodes share; job {self.job_id} is gone from the "
                f"queue, and its node wrote nothing to {self.paths.stdout}. Run the sweep where every node sees it "
                "under this name; if the job was cancelled before it began, run the same command again."
            )
        if self.paths.result_pickle.exists():  # it ended, and was not ours
            raise UsageError(
                "--launcher slurm: expected this checkout and its environment under the same names on every node; job "
                f"{self.job_id} could not begin: see {self.paths.stderr}."
            )
        return -signal.SIGKILL

    def _code(self, found: int | str) -> int:
        if isinstance(found, str):
            raise UsageError(found)
        if found - 128 in STOP_SIGNALS and not self.stopped:
            # or a preempted job may begin again beside us
            subprocess.run(["scancel", self.job_id], capture_output=True)
        return found

    def stop(self, at_once: bool = False) -> None:
        """Take it out of the queue, or send SIGTERM, on which a training saves; at once: Slurm ends it."""
        self.stopped = True
        for words in ([],) if at_once else (["--state=PENDING"], ["--signal=TERM"]):
            subprocess.run(["scancel", *words, self.job_id], capture_output=True)


class SlurmLauncher(NodeLauncher):
    """Trainings as jobs of Slurm, with `options` of sbatch.

    :raises UsageError: if submitit or Slurm is not installed, or a run is to have a share of a GPU.
    """

    unit = "job of Slurm"

    def __init__(self, request: SweepConfig, runs: int) -> None:
        super().__init__(request, runs)
        self.options = {key.replace("-", "_"): value for key, value in options_of(request).items()}
        if request.gpus != int(request.gpus):
            raise UsageError(f"--gpus: expected whole GPUs, as Slurm shares none out; found {request.gpus:g}.")
        self.submitit = imported("submitit", request, "slurm")
        missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(name)]
        if missing and not request.dry_run:
            raise UsageError(
                f"--launcher slurm: expected Slurm's {missing[0]} on the PATH; found none. Run the sweep on a login "
                "node of the cluster."
            )
        self.folder, self.queue = request.out.absolute() / "logs" / "slurm", Queue()

    def start(self, job: Job) -> SlurmJob:
        """Submit the job.

        :raises UsageError: if Slurm refuses it.
        """
        given: dict[str, Any] = {
            "job_name": job.name,
            "cpus_per_task": cores_of(job, self.request)[1],
            "time": DAY,
            "signal_delay_s": SAVING,
            **({"gpus_per_node": int(self.request.gpus)} if self.request.gpus else {}),
        }
        own = {key: self.options.get(key, value) for key, value in given.items()}
        more = {key: value for key, value in self.options.items() if key not in given}
        folder = self.folder / f"{job.name}-{secrets.token_hex(4)}"  # for all that submitit and Slurm write about it
        task = SlurmTask(NodeJob.of(self.command(job), self.request.gpus), folder / "answer.json")
        told = io.StringIO()  # submitit prints what Slurm says, and raises it
        try:
            executor = self.submitit.SlurmExecutor(folder)
            executor.update_parameters(**own, additional_parameters={"requeue": True, **more})
            with contextlib.redirect_stderr(told):
                submitted = executor.submit(task)
        except (ValueError, RuntimeError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            found = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"--launcher slurm: expected a job that Slurm takes; it answers: {found}. Change --cpus, --gpus or "
                "--options; if it takes no more than some jobs at once, --jobs."
            ) from error
        return SlurmJob(submitted, task.answer, self.queue)
