"""A worker process: `python -m envs.workers.worker SOCKET MEMORY` steps its share of the tasks.

It ends when the trainer is gone.

Both arguments are inherited file descriptors. Each message names a command; each is answered by one message. The
process imports neither torch nor Stable-Baselines3, so it is small and starts quickly.
"""

import mmap
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from envs.columns import Columns, Sizes, TaskSpec, make_board
from envs.signals import STOP_SIGNALS
from envs.workers.wire import DONE, STEP, pack, unpack


def main(socket: int, memory: int) -> None:
    """Build the tasks that the first message names, then answer until the other end closes."""
    for signum in STOP_SIGNALS:  # for the trainer: it saves a checkpoint, then hangs up
        signal.signal(signum, signal.SIG_IGN)
    connection = Connection(socket)
    worker = _Worker(memory)
    while True:
        try:
            message = connection.recv_bytes()
            connection.send_bytes(worker.reply("step", []) if message == STEP else worker.reply(**unpack(message)))
        except (EOFError, OSError):  # the trainer closed its end, or died
            return


class _Worker:
    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._columns: Columns | None = None

    def reply(self, command: str, arguments: list[Any]) -> bytes:
        """Carry out a command; an error is an answer too."""
        try:
            target = self._columns if hasattr(Columns, command) else self
            answer = getattr(target, command)(*arguments)
            return DONE if answer is None else pack({"answer": answer})
        except Exception as error:
            return pack({"error": traceback.format_exc(), "kind": type(error).__name__})

    def build(
        self, specs: list[dict[str, Any]], rows: list[int], sizes: list[Any], num_tasks: int, envs_per_task: int
    ) -> None:
        """Build the tasks of these rows of the board."""
        tasks = [TaskSpec(**spec) for spec in specs]
        board = make_board(Sizes(*sizes), num_tasks, envs_per_task, mmap.mmap(self._memory, 0))
        envs = []
        for task, row in zip(tasks, rows, strict=True):
            board["busy"][row] = True  # stays so if building fails: the trainer names the task
            envs.append(task.build())
            board["busy"][row] = False
        self._columns = Columns([task.name for task in tasks], envs, board, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
