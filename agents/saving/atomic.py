"""Files that appear whole or not at all, and stay: also when the process is killed, the disk full or the power gone."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to write to; at the end of the block it takes the place of `path` in one move.

    After an error inside, what was at `path` before is still there, and nothing else is left. A link that lies in the
    way is replaced and never written through.

    :raises OSError: if the disk is full or may not be written to.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the contents before the name: a power failure may keep only the first
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def not_through_links(path: str, flags: int) -> int:
    """Open, as `opener` of `open`, anything but a link (OSError): in a stranger's folder one may lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def sync(path: str | Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk; nothing there, nothing to do.

    Some file systems (SMB, FUSE, folders shared with a virtual machine) cannot wait for a folder: there it is not done.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NOT_OFFERED or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise
        finally:
            os.close(descriptor)
