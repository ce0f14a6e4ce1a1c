"""One process per run folder: two trainings in one folder would write over each other."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from agents.saving.atomic import not_through_links
from scripts.common.text import plain
from scripts.common.usage import InUse, UsageError

try:
    import fcntl
except ImportError:  # Windows: what only reads runs works there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_LONGEST_NODE, _LONGEST = 255, 300  # bytes of the name of a node, and of the file
_OURS = re.compile(rb"\d{1,20} [^\n]*|.{0,20}", re.DOTALL)  # a process id and a node; before 0.2, or torn: less
# what a file system without locks answers: Lustre without -o flock, some of NFS, FUSE and SMB
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; make it, and remove it again if it is still empty at the end.

    The system lets go of the lock when the process dies, however it dies, so none is ever stale. Where the file
    system has no locks, a warning says so.

    :raises InUse: if another process holds it.
    :raises UsageError: if nothing can be written there.
    :raises OSError: if the disk is full.
    """
    if fcntl is None:
        raise UsageError("expected Linux or macOS to train on; found a system without fcntl. Runs can be read here.")
    with contextlib.ExitStack() as stack:
        try:
            new = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, new)
            # never through a link: whoever made the folder would choose what is written to
            descriptor = not_through_links(str(folder / LOCK), os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, descriptor)
            _lock(descriptor, folder)
            stack.callback((folder / LOCK).unlink, missing_ok=True)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {node()}".encode(), 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            found = f" the link {folder / LOCK}" if error.errno == errno.ELOOP else f": {error}"
            raise UsageError(
                f"expected a run folder that can be made and written to; found{found}. Choose another."
            ) from error
        yield


def node() -> str:
    """Return the name of this machine, as the cluster has it."""
    return (os.environ.get("SLURMD_NODENAME") or socket.gethostname())[:_LONGEST_NODE]


def holder(folder: Path) -> tuple[str, str]:
    """Return the process id and the node of who holds `folder`, or did when it died; empty if nobody does."""
    try:
        with open(folder / LOCK, "rb", opener=not_through_links) as file:
            process, _, where = file.read(_LONGEST).decode(errors="replace").partition(" ")
    except OSError:
        return "", ""
    return plain(process), plain(where)


def _lock(descriptor: int, folder: Path) -> None:
    """Raise InUse if another process has the lock, UsageError if the file is not one of ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process, where = holder(folder)
        elsewhere = f" on {where}" if where not in ("", node()) else ""
        raise InUse(
            f"{folder} is in use: process {process}{elsewhere} trains there. Wait for it, or choose another --run-dir."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{folder} lies on a file system without locks ({error.strerror}): nothing keeps a second training out.",
            stacklevel=4,
        )
    if not _OURS.fullmatch(os.pread(descriptor, _LONGEST + 1, 0)):
        raise UsageError(f"expected a lock of ours or nothing at {folder / LOCK}; found another file. Take it away.")
    if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
        raise InUse(f"{folder} was in use until just now. Try again.")  # its lock was removed as we opened it


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
