"""The trainer's side of the workers: K processes, several tasks each, one board in shared memory.

Worker k has columns k, k + K, k + 2K, ... Whatever goes wrong with one of them ends all, and the error names the task.
This process can take a share, too, as if it were the last of the workers.
"""

import mmap
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from numbers import Integral
from typing import IO, Any, NoReturn

from envs.benchmarks import whole
from envs.children import python, python_path
from envs.columns import Columns, Sizes, TaskSpec, make_board
from envs.machine import cores
from envs.signals import STOP_SIGNALS
from envs.workers.wire import DONE, STEP, pack, unpack

_SLICES = 20  # of a time-out
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerError(RuntimeError):
    """A worker raised, died or did not answer in time. All workers have been ended; create a new environment."""


class Pool:
    """Tasks in worker processes; the same operations as `Columns`, and a step in two halves.

    :param workers: number of processes, 1 to the number of columns.
    :param step_timeout: seconds until a worker that does not answer a step counts as hanging.
    :param build_timeout: the same for everything else: building, restoring, resetting, also after an episode's end.
    :param envs_per_task: E environments of each of T tasks make E T columns, all tasks, then all tasks again.
    :param takes_share: this process steps columns of its own while it waits, if the workers leave it any.
    """

    def __init__(
        self,
        specs: Sequence[TaskSpec],
        workers: int,
        step_timeout: float = 60.0,
        build_timeout: float = 300.0,
        envs_per_task: int = 1,
        takes_share: bool = False,
    ) -> None:
        counts, specs = (len(specs), envs_per_task), list(specs) * envs_per_task
        sizes = specs[0].sizes or Sizes.of(specs[0].load())
        self.num_workers = workers
        self._names = [spec.name for spec in specs]
        parts = min(workers + takes_share, len(specs))
        self._shares = [list(range(k, len(specs), parts)) for k in range(parts)]
        self._step_timeout, self._build_timeout = step_timeout, build_timeout
        self._connections: list[Connection] = []
        self._polls: list[Any] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._owing: set[int] = set()  # workers that have not answered yet
        with _unnamed_file() as file:
            _reserve(file, make_board(sizes, *counts).nbytes)
            self.board = make_board(sizes, *counts, mmap.mmap(file.fileno(), 0))
            for _ in range(workers):
                self._start(file.fileno())
        for worker, share in enumerate(self._shares[:workers]):
            self._send(worker, "build", [asdict(specs[i]) for i in share], share, sizes, *counts)
        own = [i for share in self._shares[workers:] for i in share]
        try:
            self._own = Columns([self._names[i] for i in own], [specs[i].build() for i in own], self.board, own)
            self._gather(build_timeout)
        except BaseException:
            self.close()
            raise

    def step_async(self) -> None:
        """Let every worker step its tasks with the actions on the board; return at once."""
        for worker in range(self.num_workers):
            self._send(worker, "step")

    def step_wait(self) -> None:
        """Step this process's share and wait until every other task has stepped."""
        self._own.step()
        self._gather(self._step_timeout)

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]], cuts: Sequence[int | None]) -> None:
        """Reset every task, with a seed each or None; see `Column.reset`."""
        self._scatter("reset", seeds, options, cuts)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the state of every task."""
        return self._scatter("snapshot")

    def restore(self, states: Sequence[dict[str, Any]]) -> list[str | None]:
        """Restore the state of every task; see `Column.restore`."""
        return self._scatter("restore", states)

    def ask(self, index: int, operation: str, *arguments: Any) -> Any:
        """Run one operation of one column."""
        place, worker = divmod(index, len(self._shares))
        if worker == self.num_workers:
            return self._own.ask(place, operation, *arguments)
        self._send(worker, "ask", place, operation, *arguments)
        reply = self._receive(worker, self._build_timeout)
        if reply.get("kind") == "AttributeError":
            raise AttributeError(f"{self._names[index]}: {reply['error']}")
        if "error" in reply:
            raise RuntimeError(f"{self._names[index]}, in worker {worker}:\n{reply['error']}")
        return reply["answer"]

    def close(self) -> None:
        """Hang up, and kill whoever has not left within a second; harmless when repeated."""
        for connection in self._connections:
            connection.close()
        deadline = time.monotonic() + 1.0
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections, self._polls, self._processes, self._owing = [], [], [], set()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [process.pid for process in self._processes]

    def _start(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # a worker inherits what is blocked: a signal to all processes finds it deaf from its first moment
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                process = subprocess.Popen(
                    python("envs.workers.worker", str(theirs.fileno()), str(memory)),
                    pass_fds=(theirs.fileno(), memory),
                    stdin=subprocess.DEVNULL,
                    env=os.environ | _ONE_THREAD | python_path(),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes.append(process)
        self._connections.append(Connection(ours.detach()))
        poll = select.poll()  # Connection.poll would set up a new one at every step
        poll.register(self._connections[-1].fileno(), select.POLLIN)
        self._polls.append(poll)

    def _scatter(self, command: str, *per_task: Sequence[Any]) -> list[Any]:
        """Send a command with each task's arguments to its worker; return the answers in the order of the tasks."""
        given = [[[values[i] for i in share] for values in per_task] for share in self._shares]
        for worker in range(self.num_workers):
            self._send(worker, command, *given[worker])
        own = [getattr(self._own, command)(*each) for each in given[self.num_workers :]]
        answers: list[Any] = [None] * len(self._names)
        for share, answer in zip(self._shares, [*self._gather(self._build_timeout), *own], strict=True):
            answers[share[0] :: len(self._shares)] = answer or [None] * len(share)
        return answers

    def _gather(self, timeout: float) -> list[Any]:
        """Receive one answer from each worker that owes one; an error there ends them all."""
        self._check_open()
        answers = []
        for worker in sorted(self._owing):
            reply = self._receive(worker, timeout)
            if "error" in reply:
                self._fail(worker, f"raised an error:\n{reply['error'].rstrip()}\n")
            answers.append(reply["answer"])
        return answers

    def _send(self, worker: int, command: str, *arguments: Any) -> None:
        self._check_open()
        if worker in self._owing:  # Ctrl-C came while its last answer was awaited
            self._receive(worker, self._build_timeout)
        message = STEP if command == "step" else pack({"command": command, "arguments": arguments})
        self._owing.add(worker)  # not before: what cannot be packed is never answered
        try:
            self._connections[worker].send_bytes(message)
        except OSError:
            self._fail(worker, self._obituary(worker))

    def _receive(self, worker: int, timeout: float) -> dict[str, Any]:
        connection = self._connections[worker]
        try:
            answered = self._answered(worker, timeout)
            if not answered and timeout < self._build_timeout and self._resetting(worker):
                answered = self._answered(worker, timeout := self._build_timeout)
            if not answered:
                self._fail(worker, f"did not answer within {timeout:g} s")
            message = connection.recv_bytes()
        except (EOFError, OSError):
            self._fail(worker, self._obituary(worker))
        self._owing.remove(worker)
        return {"answer": None} if message == DONE else unpack(message)

    def _answered(self, worker: int, timeout: float) -> bool:
        """Whether a worker answers in time.

        While this process is stopped (Ctrl-Z, a suspended job), its workers may be too: of the time that passes then,
        no more than a slice counts.
        """
        poll = self._polls[worker].poll
        return any(poll(1000 * timeout / _SLICES) for _ in range(_SLICES))

    def _resetting(self, worker: int) -> bool:
        """Whether a worker is at the reset that follows the last step of an episode."""
        rows = self.board[self._shares[worker]]
        return bool((rows["busy"] & (rows["terminated"] | rows["truncated"])).any())

    def _check_open(self) -> None:
        if not self._connections:
            raise WorkerError("expected running workers, found none: they have been ended; create a new environment")

    def _obituary(self, worker: int) -> str:
        try:
            code = self._processes[worker].wait(1.0)
        except subprocess.TimeoutExpired:
            return "hung up without ending"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how} (out of memory? run fewer tasks or workers)" if code == -signal.SIGKILL else how

    def _fail(self, worker: int, what: str) -> NoReturn:
        share = self._shares[worker]
        names = [self._names[i] for i in share if self.board["busy"][i]] or [self._names[i] for i in share]
        for process in self._processes:
            process.kill()
        self.close()
        raise WorkerError(
            f"worker {worker}, at {', '.join(dict.fromkeys(names))}, {what}; all workers have been ended. "
            "Create a new environment with workers=0 to see the error in this process."
        )


def _unnamed_file() -> IO[bytes]:
    """Has no name on disk: nothing is left behind, however we end."""
    try:
        return tempfile.TemporaryFile()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. Let the environment variable TMPDIR name a folder to write to.") from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Make the file so large, where there is room: without it the first write through a map is a bus error."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
            file.flush()
    except OSError as error:
        where = f"{tempfile.gettempdir()}, where trainer and workers share {size} bytes (TMPDIR chooses another folder)"
        raise OSError(error.errno, error.strerror, where) from error


def count_workers(workers: int | str, num_tasks: int, envs_per_task: int = 1) -> int:
    """Resolve "auto" to a worker for every two cores that this process may use, at most one per column; check a number.

    :raises ValueError: unless it is "auto" or 0 to E T, or if E is not a whole number of at least 1.
    """
    most, each = num_tasks * whole("envs_per_task", envs_per_task, 1), "task" if envs_per_task == 1 else "environment"
    if workers == "auto":
        return min(most, max(1, cores() // 2))
    if not isinstance(workers, Integral) or isinstance(workers, bool) or not 0 <= workers <= most:
        raise ValueError(f"expected workers 'auto' or 0 (in-process) to {most}, one per {each}; found {workers!r}")
    return int(workers)
