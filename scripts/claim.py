"""One process per run folder: two trainings in one folder would write over each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from scripts.cli import UsageError

LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; makes it, and takes it away again if it is still empty at the end.

    The system lets go of the lock when the process dies, however it dies, so none is ever stale.
    Raises UsageError if another process holds it or if nothing can be written there.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, new)
            _lock(stack.enter_context((folder / LOCK).open("a+")), folder)
        except OSError as error:
            raise UsageError(
                f"expected a run folder that can be made and written to; found: {error}. Choose another."
            ) from error
        stack.callback((folder / LOCK).unlink, missing_ok=True)
        yield


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise UsageError(
            f"{folder} is in use: process {file.read()} trains there. Wait for it, or choose another --run-dir."
        ) from error
    if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
        raise UsageError(f"{folder} was in use until just now. Try again.")  # its lock was removed as we opened it
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
