"""What every command does: ends with a clear line and an exit code; and small questions about its words."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agents import NonFiniteError
from envs import WorkerError
from mtrl import AGGREGATORS, ALIASES, Aggregator, aggregator_class
from scripts.common.screen import LostOutput, guarded_streams
from scripts.common.text import plain

EXIT_USAGE, EXIT_NON_FINITE, EXIT_WORKER, EXIT_DISK, EXIT_INTERRUPTED = 2, 3, 4, 5, 130
# what a full or broken disk answers: no space, over quota, over a file-size limit, input or output error
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# and what else may go wrong with files: permissions, a read-only disk, a folder that is gone, too many open files
_FILES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE)


class UsageError(Exception):
    """Something the user can put right: says what was expected, what was found and what to do."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside, a ValueError or a missing file or package is about what the user asked for, not about our code."""
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise UsageError(str(error)) from error


def run(main: Callable[[Sequence[str]], int | None], files: bool = False) -> None:
    """Runs `main(argv)` and exits with its code; errors that teach end in one line, real bugs keep their traceback.

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
    """The exit code of `main`, after the one line that an error is worth."""
    codes: dict[type[Exception], int] = {
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
        if error.errno == errno.ENAMETOOLONG:
            print(f"error: expected a shorter name; found: {plain(error)}", file=sys.stderr)
            return EXIT_USAGE
        if error.errno not in (*_DISK, *_FILES):
            raise
        full = error.errno in _DISK
        told = f"the disk took no more: {error}. Make room" if full else f"a file was refused: {error}. Put that right"
        print(f"error: {plain(told)}, then go on with --resume.", file=sys.stderr)
        return EXIT_DISK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def home(argv: Sequence[str]) -> list[str]:
    """The words with `--flag=~/path` as if the shell had seen to it: after `=`, not every shell does."""
    words = (word.partition("=") for word in argv)
    return [flag + is_ + (os.path.expanduser(path) if flag.startswith("--") else path) for flag, is_, path in words]


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `name` if it is known. Raises UsageError with the nearest names otherwise."""
    names = sorted(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(names)}."
    raise UsageError(f"unknown {kind} {name!r}: {hint}")


def aggregator_kind(name: str) -> type[Aggregator]:
    """The class of an aggregator: a name of ours, `torchjd:NAME` or `path/to/file.py:NAME`.

    Raises UsageError if there is none, or if TorchJD is not installed.
    """
    if ":" not in name:
        choose("aggregator", name, (*AGGREGATORS, *ALIASES))
    with usage_errors():
        return aggregator_class(name)


def folder(flag: str, text: str) -> Path:
    """The folder that a flag names. Raises UsageError for a name that could not be printed, or written, as it is."""
    if not text.isprintable():  # line ends, escape sequences, bytes that are no text
        raise UsageError(f"{flag}: expected a name of printable characters; found {text!r}. Choose another.")
    if not text.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":  # as TensorBoard writes names
        raise UsageError(
            f"{flag}: expected ASCII letters, as file names are in {encoding} here; found {text!r}. Choose another, or "
            "set PYTHONUTF8=1."
        )
    return Path(os.path.expanduser(text))


def check_output(flag: str, path: Path) -> None:
    """Raises UsageError unless a file can be written at `path`: better now than after an hour of work."""
    if path.is_dir():
        raise UsageError(f"{flag}: expected a file; {path} is a folder. Add a file name.")
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: expected a file in an existing folder; there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{flag}: expected a folder that can be written to; {path.parent} cannot. Choose another.")


def given(flag: str, words: Iterable[str]) -> bool:
    """Whether a flag is among the words, with its value or before it; dashes may be written as underscores."""
    return any(word.partition("=")[0].replace("_", "-") == flag for word in words)


def step_limit() -> int | None:
    """The environment variable STEPS: how many steps per task a training may take that is not told --steps-per-task."""
    text = os.environ.get("STEPS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"the environment variable STEPS: expected a number of at least 1; found {text!r}. Unset it.")
    return int(text)
