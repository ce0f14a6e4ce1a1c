"""Errors that teach, and small questions about the words of a command."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.fields import SettingError


class UsageError(Exception):
    """Something the user can put right: says what was expected, what was found and what to do."""


class InUse(UsageError):
    """The folder of a run that another process works in: the same command may do later."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside, a ValueError or a missing file or package is about what the user asked for, not about our code."""
    try:
        yield
    except SettingError as error:
        raise UsageError(in_flags(error)) from error
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise UsageError(str(error)) from error


def in_flags(error: SettingError) -> str:
    """Say the error as the command line does: with the setting's flag, a list as it was typed."""
    found = ",".join(map(str, error.found)) if isinstance(error.found, tuple) else error.found
    return f"--{error.name.replace('_', '-')}: expected {error.expected}; found {found!r}"


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known.

    :raises UsageError: with the nearest names otherwise.
    """
    names = sorted(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(names)}."
    raise UsageError(f"unknown {kind} {name!r}: {hint}")


def require_package(name: str, extra: str, where: str = "") -> None:
    """Raise UsageError without a package that an extra of ours installs.

    :param extra: its name; empty: none does.
    :param where: what needs it, before the message.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder of that name, as of wandb's offline runs, is no package
        how = f"-c constraints.txt -e '.[{extra}]'" if extra else name
        raise UsageError(f"{where}expected the package {name}; it is not installed. Install it: pip install {how}")


def check_folder(flag: str, text: str) -> Path:
    """Return the folder that a flag names.

    :raises UsageError: for a name that could not be printed, or written, as it is.
    """
    if not text.isprintable():  # line ends, escape sequences, bytes that are no text
        raise UsageError(f"{flag}: expected a name of printable characters; found {text!r}. Choose another.")
    if not text.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":  # as TensorBoard writes names
        raise UsageError(
            f"{flag}: expected ASCII letters, as file names are in {encoding} here; found {text!r}. Choose another, or "
            "set PYTHONUTF8=1."
        )
    return Path(os.path.expanduser(text))


def make_folder(flag: str, path: Path) -> None:
    """Make the folder in which a command is about to write, if it is not there.

    :raises UsageError: if it cannot be made, or written to.
    :raises OSError: if the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{flag}: expected a folder that can be made; found: {error}. Choose another.") from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"{flag}: expected a folder that can be written to; {path} cannot. Choose another.")


def check_output(flag: str, path: Path) -> None:
    """Raise UsageError unless a file can be written at `path`: better now than after an hour of work."""
    if path.is_dir():
        raise UsageError(f"{flag}: expected a file; {path} is a folder. Add a file name.")
    if os.path.lexists(path) and not path.is_file():  # /dev/stdout would be replaced by a file, where we may do so
        raise UsageError(f"{flag}: expected a new or a plain file; {path} is a device, a pipe or a link to nothing.")
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: expected a file in an existing folder; there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{flag}: expected a folder that can be written to; {path.parent} cannot. Choose another.")


def given(flag: str, words: Iterable[str]) -> bool:
    """Whether a flag is among the words, with its value or before it; dashes may be written as underscores."""
    return any(word.partition("=")[0].replace("_", "-") == flag for word in words)


def step_limit() -> int | None:
    """Return the environment variable STEPS: how many steps per task a training takes without --steps-per-task."""
    text = os.environ.get("STEPS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"the environment variable STEPS: expected a number of at least 1; found {text!r}. Unset it.")
    return int(text)
