"""One process per run folder: two trainings in one folder would write over each other."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from agents.saving.atomic import not_through_links
from scripts.common.usage import UsageError

try:
    import fcntl
except ImportError:  # Windows: what only reads runs works there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# what a file system without locks answers: Lustre without -o flock, some of NFS, FUSE and SMB
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; make it, and remove it again if it is still empty at the end.

    The system lets go of the lock when the process dies, however it dies, so none is ever stale. Where the file
    system has no locks, a warning says so.

    :raises UsageError: if another process holds it, or nothing can be written there.
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
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            found = f" the link {folder / LOCK}" if error.errno == errno.ELOOP else f": {error}"
            raise UsageError(
                f"expected a run folder that can be made and written to; found{found}. Choose another."
            ) from error
        yield


def _lock(descriptor: int, folder: Path) -> None:
    """Raise UsageError if another process has the lock, or if the file is not one of ours."""
    holder = os.pread(descriptor, 100, 0)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"{folder} is in use: process {holder.decode(errors='replace')} trains there. Wait for it, or choose "
            "another --run-dir."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{folder} lies on a file system without locks ({error.strerror}): nothing keeps a second training out.",
            stacklevel=4,
        )
    if len(holder) > len(str(2**64)):  # longer than any process id
        raise UsageError(f"expected a lock of ours or nothing at {folder / LOCK}; found another file. Take it away.")
    if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
        raise UsageError(f"{folder} was in use until just now. Try again.")  # its lock was removed as we opened it


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
