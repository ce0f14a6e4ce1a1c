"""CIFAR-100 as 20 tasks: the superclass is known, which of its five classes is it? (Rosenbaum et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import convolutions
from scripts.studies.supervised.metrics import ACCURACY
from scripts.studies.supervised.reading import first_of

SUPERCLASSES, CLASSES = 20, 5
SHAPE = (3, 32, 32)
RECORD = 2 + 3 * 32 * 32  # bytes: superclass, class, pixels


@dataclass(frozen=True)
class Pixels:
    """Pictures as bytes, (rows, channels, height, width); numbers in [0, 1] when they are asked for."""

    raw: Tensor

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.raw[rows].float() / 255


class Cifar100(Dataset):
    """50,000 pictures to train on, 10,000 to test on, as published; each belongs to the task of its superclass.

    A target is the rank of the class among the five of its superclass. The number of the class modulo 5, which
    circulates, gives classes of one superclass the same target: results with it are of an easier problem.
    """

    title = "CIFAR-100: 20 superclasses as tasks"
    needs = "train.bin and test.bin of the binary version, cifar-100-binary.tar.gz from cs.toronto.edu/~kriz/cifar.html"
    epochs, batch_size, learning_rate = 10, 16, 1e-3
    tasks = tuple(
        Task(f"superclass{number}", CLASSES, functional.cross_entropy, (ACCURACY,)) for number in range(SUPERCLASSES)
    )
    encoder = convolutions(SHAPE, (160, 160, 160), (320, 320))

    def __init__(self, folder: Path) -> None:
        self.parts = [
            _records(first_of(folder, [f"{part}.bin", f"cifar-100-binary/{part}.bin"], self.needs))
            for part in ("train", "test")
        ]
        self.ranks = torch.zeros(SUPERCLASSES * CLASSES, dtype=torch.int64)
        pairs = torch.cat(self.parts)[:, :2].unique(dim=0).long()
        for number in range(SUPERCLASSES):
            found = pairs[pairs[:, 0] == number, 1]
            if len(found) != CLASSES:
                raise UsageError(f"{folder}: expected 5 classes in superclass {number}; found {len(found)}.")
            self.ranks[found] = torch.arange(CLASSES)
        if len(pairs[:, 1].unique()) != len(pairs):
            raise UsageError(f"{folder}: expected each class in one superclass; found one in several.")

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Return the published ones, for every seed."""
        return self._split(self.parts[0]), self._split(self.parts[1])

    def _split(self, records: Tensor) -> Split:
        coarse, fine = records[:, :2].long().T
        members = tuple((coarse == number).nonzero()[:, 0] for number in range(SUPERCLASSES))
        return Split(Pixels(records[:, 2:].reshape(-1, *SHAPE)), (self.ranks[fine],) * SUPERCLASSES, members)


def _records(path: Path) -> Tensor:
    """(rows, bytes)."""
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % RECORD:
        raise UsageError(f"{path}: expected records of {RECORD} bytes; found {len(raw)} bytes. It is cut off.")
    records = torch.from_numpy(raw.reshape(-1, RECORD))
    if records[:, 0].max() >= SUPERCLASSES or records[:, 1].max() >= SUPERCLASSES * CLASSES:
        raise UsageError(
            f"{path}: expected superclasses below 20, classes below 100; found others. It is another file."
        )
    return records
