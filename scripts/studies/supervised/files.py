"""Rows that lie in files and are read when they are asked for: arrays of NumPy and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.common.usage import UsageError


@dataclass(frozen=True)
class Files:
    """A file per row.

    :param read: what a file holds, as an array.
    """

    paths: Sequence[Path]
    read: Callable[[Path], np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self.read(self.paths[row]) for row in rows.tolist()]))


def numbered(folder: Path, needs: str) -> list[Path]:
    """Return the files 0.npy, 1.npy, ... of a folder, in order.

    :raises UsageError: if there are none, one is missing, or others are among them.
    """
    found = sorted(folder.glob("*.npy"), key=lambda path: (not path.stem.isdecimal(), len(path.stem), path.stem))
    odd = next((path.name for number, path in enumerate(found) if path.stem != str(number)), None)
    if not found or odd:
        what = f"{odd} among them" if found else "none" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: expected files 0.npy, 1.npy, ...; found {what}. Expected are {needs}.")
    return found


def array(path: Path, mapped: bool = False) -> np.ndarray:
    """Return the array of numbers in a file of NumPy; one with pickled objects is not opened.

    :param mapped: leave it in the file, after a look at its header and its length.
    :raises UsageError: if it is damaged, or another kind of file.
    """
    try:
        found = np.lib.format.open_memmap(path, mode="r")  # which takes no length on trust
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path}: expected an array of NumPy; found a damaged or foreign file ({error}).") from error
    if found.dtype.kind not in "biuf":
        raise UsageError(f"{path}: expected an array of real numbers; found one of {found.dtype}.")
    return found if mapped else np.array(found)


def picture(side: int) -> Callable[[Path], np.ndarray]:
    """Return what reads a picture of any format as (3, side, side), numbers in [0, 1].

    It raises UsageError if a file is damaged, or none.
    """

    def read(path: Path) -> np.ndarray:
        from PIL import Image  # with matplotlib

        try:
            with Image.open(path) as found:
                pixels = np.asarray(found.convert("RGB").resize((side, side)), np.float32)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"{path}: expected a picture; found a damaged or foreign file ({error}).") from error
        return np.moveaxis(pixels, 2, 0) / np.float32(255)

    return read
