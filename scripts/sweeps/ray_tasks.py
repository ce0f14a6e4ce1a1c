"""The launcher `ray`: every run is a task of a Ray cluster, which finds a node for it, and another if that one dies."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from typing import Any

from scripts.common.usage import UsageError
from scripts.sweeps.child import NodeJob, NodeLauncher, cores_of, imported, options_of
from scripts.sweeps.plan import Job
from scripts.sweeps.request import SweepConfig

LOST_NODES = 10  # so often Ray itself gives a run to another node, after its own was lost
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # of HTTP/2 (RFC 9113, 3.4)
PATIENCE = 10.0  # seconds for an answer to it


def train(job: NodeJob) -> int | str:
    """Train on the node where Ray runs this; Ray asks a task to stop as Ctrl-C does."""
    return job.run((signal.SIGINT,))


class RayTask:
    """A training that Ray runs, or will run."""

    def __init__(self, ray: Any, task: Any) -> None:
        self.ray, self.task, self.stopped = ray, task, False

    def poll(self) -> int | None:
        """Its exit code, or None while it runs or waits for a node; below 0: the signal that killed it."""
        if not self.ray.wait([self.task], timeout=0)[0]:
            return None
        errors = self.ray.exceptions
        try:
            found = self.ray.get(self.task)
        except errors.TaskCancelledError:
            return 128 + signal.SIGTERM
        except errors.RayTaskError as error:
            if "ModuleNotFoundError" not in str(error):  # an error of ours
                raise
            raise UsageError(
                "--launcher ray: expected this checkout and its environment under the same names on every node; a node "
                "cannot import it. Run the sweep where every node sees it."
            ) from error
        except errors.RayError:  # its worker or its nodes died
            return -signal.SIGKILL
        if isinstance(found, str):
            raise UsageError(found)
        return int(found)

    def stop(self, at_once: bool = False) -> None:
        """Cancel it, on which the training saves; at once: kill its worker, with which Ray kills it."""
        self.stopped = True
        self.ray.cancel(self.task, force=at_once)


class RayLauncher(NodeLauncher):
    """Trainings as Ray core tasks; Ray queues them, and gives each its cores and its share of a GPU.

    :raises UsageError: if Ray is not installed, there is no cluster, or it shares no GPU out so.
    """

    unit = "task of Ray"

    def __init__(self, request: SweepConfig, runs: int) -> None:
        super().__init__(request, runs)
        self.address = options_of(request, ("address",)).get("address") or os.environ.get("RAY_ADDRESS") or "auto"
        if request.gpus != round(request.gpus, 4 if request.gpus < 1 else 0):  # what Ray counts in
            raise UsageError(
                f"--gpus: expected whole GPUs, or a share of one with four decimals at most; found {request.gpus:g}."
            )
        self.ray = imported("ray", request, "cluster")
        if not request.dry_run and runs:
            self._connect()

    def start(self, job: Job) -> RayTask:
        """Give Ray the task."""
        cpus, gpus = cores_of(job, self.request)[1], self.request.gpus
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            warnings.warn(
                f"no node of the Ray cluster has {cpus} cores and {gpus:g} GPUs now; what needs them waits for one.",
                stacklevel=2,
            )
        remote = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=LOST_NODES)(train)
        return RayTask(self.ray, remote.remote(NodeJob.of(self.command(job), gpus)))

    def _connect(self) -> None:
        """Join the cluster, if one answers at its address: Ray itself would try for minutes."""
        try:
            if self.address != "auto":
                greet(self.address)
            self.ray.init(self.address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            where = "that this machine belongs to" if self.address == "auto" else f"at {self.address}"
            found = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"--launcher ray: expected a Ray cluster {where}; found: {found}. Start one with: ray start --head, or "
                "name another: --options address=HOST:PORT"
            ) from error


def greet(address: str) -> None:
    """Look whether what listens at HOST:PORT speaks HTTP/2, as Ray does (it uses gRPC).

    :raises OSError: if nothing listens, or something else.
    :raises ValueError: if the address is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError("no HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(GREETING)
        header = connection.recv(9, socket.MSG_WAITALL)  # of the settings that a server begins with
        if header[3:4] != b"\x04":
            raise ConnectionError("a program that is not Ray answers")
