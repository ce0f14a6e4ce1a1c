"""Yeast: what a gene is for, 14 questions of yes or no (Elisseeff and Weston 2001)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import perceptron
from scripts.studies.supervised.fetching import Member, Package
from scripts.studies.supervised.losses import binary
from scripts.studies.supervised.metrics import ERROR_RATE, AreaUnderCurve
from scripts.studies.supervised.reading import first_of, numbers

FEATURES, LABELS = 103, 14
TEST_SHARE = 1 / 3


class Yeast(Dataset):
    """2,417 genes of 103 features; many binary tasks of very different balance, as the attributes of CelebA are."""

    title = "Yeast: 14 functions of a gene as tasks"
    needs = "yeast.csv.gz, 103 features and 14 labels (--fetch gets it)"
    package = Package(
        "river==0.26.1",
        2.7,
        "the package's is BSD 3-Clause; the data is MULAN's, published for research",
        (Member("river/datasets/yeast.csv.gz", "2969cb4bab877a27adcbe17871fa0b378a1e54b98816cd6106b542ee450a1c09"),),
    )
    epochs, batch_size, learning_rate = 20, 64, 1e-3
    tasks = tuple(Task(f"class{number}", 1, binary, (ERROR_RATE, AreaUnderCurve())) for number in range(1, LABELS + 1))
    encoder = perceptron(FEATURES, 128, 64)

    def __init__(self, folder: Path) -> None:
        path = first_of(folder, ["yeast.csv.gz", "yeast.csv"], self.needs)
        self.table = torch.from_numpy(numbers(path, FEATURES + LABELS, header=True).astype(np.float32))
        if not ((labels := self.table[:, FEATURES:]) * (labels - 1) == 0).all():
            raise UsageError(f"{path}: expected labels of 0 or 1 in the last {LABELS} columns; found others.")

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Two thirds of the genes to train on, by seed; features on the scale of those."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.table)))
        count = round(TEST_SHARE * len(order))
        test, train = self.table[order[:count]], self.table[order[count:]]
        mean, spread = train[:, :FEATURES].mean(0), train[:, :FEATURES].std(0) + 1e-6
        return _split(train, mean, spread), _split(test, mean, spread)


def _split(rows: Tensor, mean: Tensor, spread: Tensor) -> Split:
    return Split((rows[:, :FEATURES] - mean) / spread, tuple(rows[:, FEATURES:].T.contiguous()))
