"""Files of the published formats: what is wrong with one is told in a line."""

from __future__ import annotations

import csv
import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from scripts.common.usage import UsageError

_IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4"}  # types of idx files, as NumPy spells them


def first_of(folder: Path, names: Sequence[str], needs: str) -> Path:
    """Return the first of these files that the folder has.

    :raises UsageError: if it has none.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = "nothing of that name" if folder.is_dir() else "no such folder"
    raise UsageError(f"{folder}: expected {needs}; found {found}.")


def content(path: Path) -> bytes:
    """Return what a file holds, unpacked if it is compressed.

    :raises UsageError: if it is cut off or damaged.
    """
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path}: expected a whole gzip file; found a damaged one: {error}. Get it again.") from error


def records(path: Path, delimiter: str, columns: int, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Yield the lines of a table, each of so many columns.

    :raises UsageError: for a line that is another, by its number.
    """
    lines = csv.reader(io.StringIO(content(path).decode(encoding, "replace")), delimiter=delimiter)
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if len(line) != columns:
                raise UsageError(
                    f"{path}: expected {columns} columns; line {number} has {len(line)}. It is cut off or another."
                )
            yield line
    except csv.Error as error:
        raise UsageError(f"{path}: expected a table; after line {number} there is something else ({error}).") from error


def numbers(path: Path, columns: int, header: bool = False) -> np.ndarray:
    """Return a table of numbers with commas between them, (rows, columns).

    :raises UsageError: if it is another, holds other things, or numbers that are not finite.
    """
    rows = list(records(path, ",", columns))
    if header and rows:
        require_names(path, rows.pop(0))
    try:
        found = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise UsageError(f"{path}: expected numbers; {error}. The file is another one.") from error
    if not len(found) or not is_finite(found):
        raise UsageError(f"{path}: expected finite numbers; found {'others' if len(found) else 'no rows'}.")
    return found


def require_names(path: Path, first: Iterable[str]) -> None:
    """Raise UsageError unless the first line of a table names its columns: it would be a row that is lost."""
    try:
        [float(cell) for cell in first]
    except ValueError:
        return
    raise UsageError(f"{path}: expected a first line with the names of the columns; found numbers. Put one above them.")


def is_finite(found: np.ndarray) -> bool:
    """Return whether all numbers are finite, also in float32, in which networks read them."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(found.astype(np.float32)).all())


def are_whole(found: np.ndarray, most: int) -> bool:
    """Return whether all numbers are whole and from 0 to `most`."""
    return bool(((found >= 0) & (found <= most) & (found == np.floor(found))).all())


def idx(path: Path) -> np.ndarray:
    """Return the array of an idx file, as MNIST is published in: two zeros, type, number of axes, their lengths.

    :raises UsageError: if it is none, or cut off.
    """
    raw = content(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX:
        raise UsageError(f"{path}: expected an idx file, as MNIST's; found another kind of file.")
    kind = np.dtype(_IDX[raw[2]])
    start = 4 + 4 * raw[3]
    shape: tuple[int, ...] = struct.unpack(f">{raw[3]}I", raw[4:start]) if len(raw) >= start else (2**62,)
    if len(raw) != start + math.prod(shape) * kind.itemsize:
        raise UsageError(f"{path}: expected {'x'.join(map(str, shape))} numbers; the file is cut off. Get it again.")
    return np.frombuffer(raw, kind, offset=start).reshape(shape)
