"""What every command does: it ends with a clear line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from agents import NonFiniteError
from envs import WorkerError
from scripts.common.screen import LostOutput, guarded_streams
from scripts.common.text import plain
from scripts.common.usage import InUse, UsageError

EXIT_INCOMPLETE, EXIT_USAGE, EXIT_NON_FINITE, EXIT_WORKER, EXIT_DISK, EXIT_IN_USE = range(1, 7)
EXIT_INTERRUPTED = 130  # as shells report Ctrl-C
# what a full or broken disk answers: no space, over quota, over a file-size limit, input or output error
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# a path that cannot be: too long, a file where a folder should be or the reverse, a circle of links
_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
# and what else may go wrong with files: permissions, a read-only disk, a folder that is gone, too many open files
_FILES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def run(main: Callable[[Sequence[str]], int | None], files: bool = False) -> None:
    """Run `main(argv)` and exit with its code; errors that teach end in one line, real bugs keep their traceback.

    Output that nobody reads any more is no error. If there was no room for it, that is told at the end, and it is an
    error unless the results are in files.

    :param files: whether they are.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        with guarded_streams():
            code = _outcome(main)
    except LostOutput as error:
        print(f"{'warning' if files else 'error'}: what was printed is not all there: {error}", file=sys.stderr)
        code = code or (0 if files else EXIT_DISK)
    sys.exit(code)


def _outcome(main: Callable[[Sequence[str]], int | None]) -> int | str | None:
    """Return the exit code of `main`, after the one line that an error is worth."""
    codes: dict[type[Exception], int] = {
        InUse: EXIT_IN_USE,  # before UsageError, which it is, too
        UsageError: EXIT_USAGE,
        NonFiniteError: EXIT_NON_FINITE,
        WorkerError: EXIT_WORKER,
    }
    try:
        return main(home(sys.argv[1:])) or 0
    except SystemExit as end:
        return end.code
    except tuple(codes) as error:
        print("error:", plain(error, keep="\n"), file=sys.stderr)
        return next(code for kind, code in codes.items() if isinstance(error, kind))
    except OSError as error:
        if error.errno in _PATHS:
            expected = "a shorter name" if error.errno == errno.ENAMETOOLONG else "another path"
            print(f"error: expected {expected}; found: {plain(error)}", file=sys.stderr)
            return EXIT_USAGE
        if error.errno not in (*_DISK, *_FILES):
            raise
        full = error.errno in _DISK
        told = f"the disk took no more: {error}. Make room" if full else f"a file was refused: {error}. Put that right"
        print(f"error: {plain(told)}, then try again; a training goes on with --resume.", file=sys.stderr)
        return EXIT_DISK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def home(argv: Sequence[str]) -> list[str]:
    """Return the words with `--flag=~/path` as if the shell had seen to it: after `=`, not every shell does."""
    words = (word.partition("=") for word in argv)
    return [flag + is_ + (os.path.expanduser(path) if flag.startswith("--") else path) for flag, is_, path in words]
