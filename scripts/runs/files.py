"""The files of a run: which there may be, and how they are read and written."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.saving.atomic import whole_file
from envs.benchmarks import TASK_NAME
from scripts.common.text import parse_json
from scripts.common.usage import UsageError
from scripts.runs.claim import LOCK
from scripts.runs.protocol import Protocol

_MOST_GOALS = 2**24  # bytes; the 50 goals of each of 50 tasks are 150 kB
_MOST_JSON = 2**24  # bytes; a result of 50 tasks is 20 kB
_TABLES = ("metrics.csv", "evaluations.csv", "conflicts.csv")
_FOLDERS = ("checkpoints", "tensorboard", "tasks")
# What a run that begins writes before config.json makes the folder a run.
_BEGUN = (LOCK, "goals.npz", "versions.json", "protocol.json")
# config.json is removed last: without it, a folder is no run
_FILES = (*_BEGUN, "versions-resumed.json", "result.json", "postmortem.json", *_TABLES, "config.json")


@contextlib.contextmanager
def as_usage_error(path: Path) -> Iterator[None]:
    """Inside, a file of a run is read: whatever goes wrong means that it is damaged, and raises UsageError.

    All errors, as readers of a damaged file meet many kinds: for flipped bytes, zipfile alone raises five.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing. Restore the file from a copy or train anew.") from error
    except PermissionError as error:  # no damage
        raise UsageError(f"{path} may not be read: {error.strerror}. Ask its owner, or copy the run.") from error
    except Exception as error:
        found = str(error) or type(error).__name__
        raise UsageError(f"{path} is damaged: {found}. Restore the file from a copy or train anew.") from error


def check_not_of_a_run(flag: str, path: Path) -> None:
    """Raise UsageError if what a command is to write to would take the place of a run's own file."""
    if path.name in _FILES and (path.parent / "config.json").exists():
        raise UsageError(
            f"{flag}: expected a file besides those of the run in {path.parent}; found {path}, which is its own. "
            "Choose another name."
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    :raises OSError, ValueError: if it is missing, too large, or something else.
    """
    _require_size(path, _MOST_JSON)
    values = parse_json(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return values


def read_protocol(path: Path) -> Protocol:
    """Return the protocol in protocol.json.

    :raises ValueError: if its fields do not make its id, or a task has a strange name.
    """
    values = read_json(path)
    id_ = values.pop("id")
    protocol = Protocol.from_json(values)
    if strange := [name for name in protocol.tasks if not TASK_NAME.fullmatch(name)]:
        raise ValueError(f"expected names of tasks like reach-v3, found {strange[0][:100]!r}")
    if id_ not in (protocol.id, protocol.earlier_id):
        raise ValueError(f"its id is {id_!r}, but its fields make {protocol.id!r}")
    return protocol


def write_goals(path: Path, goals: Mapping[str, npt.ArrayLike]) -> None:
    """Write goal vectors per task, whole or not at all."""
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:  # numpy.savez takes no task called "file"
        for name, vectors in goals.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(vectors), allow_pickle=False)


def read_goals(path: Path) -> dict[str, np.ndarray]:
    """Goal vectors per task; arrays of numbers only, none of which unpacks to more than any suite has.

    :raises OSError, ValueError: or whatever else zipfile raises for a damaged file.
    """
    _require_size(path, _MOST_GOALS)
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MOST_GOALS:
            raise ValueError(f"it unpacks to more than {_MOST_GOALS} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _require_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes, expected at most {most:,}")


def require_new(path: Path) -> None:
    """Raise UsageError unless `path` is free for a new run, or holds no more than the beginning of one.

    A trial is in nobody's way: its files are removed, and no others.
    """
    if _is_trial(path):
        # config.json last: until then it is a trial
        for item in (path / name for name in (*_FOLDERS, *_FILES) if name != LOCK):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)
    begun = {name + end for name in (*_BEGUN, "config.json") for end in ("", ".partial")} - {"config.json"}
    if path.is_file() or (path.is_dir() and any(item.name not in begun for item in path.iterdir())):
        name = shlex.quote(str(path))
        resume = f" or go on with that run: --resume {name}" if (path / "config.json").exists() else ""
        raise UsageError(f"expected a new or empty run folder; {name} is not empty. Choose another --run-dir{resume}")


def _is_trial(path: Path) -> bool:
    try:
        return read_json(path / "config.json").get("trial") is True
    except (OSError, ValueError):
        return False


def require_plain_files(path: Path) -> None:
    """Raise UsageError if a run folder holds a link or a device, or a file for a folder, or a folder for a file."""
    for folder, folders, files in os.walk(path):  # passes over what a training takes away meanwhile
        for name in (*folders, *files):
            item = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                mode = item.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise UsageError(
                        f"expected a run folder of plain files; found the {'link' if stat.S_ISLNK(mode) else 'device'} "
                        f"{item}, and a run must not read or write elsewhere. Put a plain file in its place."
                    )
    for names, fits, expected in ((_FILES, Path.is_file, "a file"), (_FOLDERS, Path.is_dir, "a folder")):
        for name in names:
            if (path / name).exists() and not fits(path / name):
                raise UsageError(
                    f"the run in {path} is damaged: {path / name} is not {expected}. Restore it from a copy."
                )
