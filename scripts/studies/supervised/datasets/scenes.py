"""NYUv2 and Cityscapes as MTAN published them: every pixel's class, depth and, indoors, normal (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.dense import (
    ABSOLUTE_ERROR,
    MEAN_ANGLE,
    RELATIVE_ERROR,
    MeanIoU,
    MedianAngle,
    classes,
    direction,
    distance,
    within,
)
from scripts.studies.supervised.encoders import segnet
from scripts.studies.supervised.files import Files, array, numbered
from scripts.studies.supervised.metrics import ACCURACY
from scripts.studies.supervised.reading import are_whole, is_finite

WIDTHS = (64, 128, 256, 512, 512)
DEPTH = Task("depth", 1, distance, (ABSOLUTE_ERROR, RELATIVE_ERROR))
NORMAL = Task(
    "normal", 3, direction, (MEAN_ANGLE, MedianAngle(), *(within(degrees) for degrees in (11.25, 22.5, 30.0)))
)


def segmentation(number: int) -> Task:
    """Return the task to name each pixel's class."""
    return Task("segmentation", number, classes, (MeanIoU(number), ACCURACY))


class Scenes(Dataset):
    """Folders train and val, in each a folder per quantity, in each the same files 0.npy, 1.npy, ...

    Deviations from MTAN's network: normalisation by groups, as that of the batch mixes rows; the decoder doubles its
    sides by repetition, not at the places of the encoder's maxima. Pictures are not scaled or mirrored at random.
    """

    parts: ClassVar[tuple[tuple[str, ...], ...]]
    """Folders of the picture and of each task's answers; of several names the first that is there."""
    number: ClassVar[int]
    """Number of classes."""
    epochs, batch_size, learning_rate = 200, 2, 1e-4

    def __init__(self, folder: Path) -> None:
        self.rows = [self._rows(folder / part) for part in ("train", "val")]
        (_, *first), (_, *other) = (rows[0].read(rows[0].paths[0]).shape for rows in self.rows)
        if first != other:
            raise UsageError(f"{folder}: expected pictures of one size in train and val; found {first} and {other}.")
        self.encoder = segnet((first[0], first[1]), WIDTHS)

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Return the published ones, for every seed."""
        train, test = (Split(inputs, tuple(targets)) for inputs, *targets in self.rows)
        return train, test

    def _rows(self, folder: Path) -> list[Files]:
        found: list[Files] = []
        reads: list[Callable[[Path], np.ndarray]] = [_picture, partial(_labels, self.number), _depth, _picture]
        for names, read in zip(self.parts, reads, strict=False):
            place = next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])
            paths = numbered(place, self.needs)
            if found and (odd := {path.name for path in paths} ^ {path.name for path in found[0].paths}):
                raise UsageError(
                    f"{place}: expected the same files as in {names[0]}'s picture folder; {min(odd)} is odd."
                )
            found.append(Files(paths, read))
        _, height, width = found[0].read(found[0].paths[0]).shape
        sizes = {(array(path, mapped=True).shape[:2], path) for files in found for path in files.paths}
        if other := next((path for size, path in sizes if size != (height, width)), None):
            raise UsageError(
                f"{other}: expected {height} x {width} pixels as the first picture has; found another size."
            )
        if height % 2 ** len(WIDTHS) or width % 2 ** len(WIDTHS):
            raise UsageError(f"{folder}: expected sides that {2 ** len(WIDTHS)} divides; found {height} x {width}.")
        return found


class NYUv2(Scenes):
    """795 rooms to train on, 654 to test on, 288 x 384 pixels."""

    title = "NYUv2: classes, depth and surface normals of rooms"
    needs = (
        "train and val, each with the folders image, label, depth and normal of 0.npy, 1.npy, ..., as in nyuv2.zip of "
        "github.com/lorenmt/mtan"
    )
    parts, number = (("image",), ("label",), ("depth",), ("normal",)), 13
    tasks = (segmentation(13), DEPTH, NORMAL)


class Cityscapes(Scenes):
    """2,975 streets to train on, 500 to test on, 128 x 256 or 256 x 512 pixels; seven classes, inverse depth."""

    title = "Cityscapes: classes and inverse depth of streets"
    needs = (
        "train and val, each with the folders image, label_7 (or label) and depth of 0.npy, 1.npy, ..., as in "
        "cityscapes2.zip of github.com/lorenmt/mtan"
    )
    parts, number = (("image",), ("label_7", "label"), ("depth",)), 7
    tasks = (segmentation(7), DEPTH)


def _picture(path: Path) -> np.ndarray:
    """(3, height, width), of a picture or of normals."""
    found = array(path)
    if found.ndim != 3 or found.shape[2] != 3:
        raise UsageError(f"{path}: expected height x width x 3 numbers; found {found.shape}.")
    return np.ascontiguousarray(np.moveaxis(_finite(path, found), 2, 0))


def _labels(classes: int, path: Path) -> np.ndarray:
    """(height, width), -1 where there is none."""
    found = array(path)
    if found.ndim != 2 or not are_whole(found + 1.0, classes):
        raise UsageError(f"{path}: expected height x width classes from -1 to {classes - 1}; found others.")
    return found.astype(np.int64)


def _depth(path: Path) -> np.ndarray:
    """(height, width), 0 where there is none."""
    found = _finite(path, array(path))
    if found.ndim == 3 and found.shape[2] == 1:
        found = found[:, :, 0]
    if found.ndim != 2:
        raise UsageError(f"{path}: expected height x width depths; found {found.shape}.")
    return np.ascontiguousarray(found)


def _finite(path: Path, found: np.ndarray) -> np.ndarray:
    if not is_finite(found):
        raise UsageError(f"{path}: expected finite numbers; found others.")
    return found.astype(np.float32)
