"""MultiMNIST in small: the 1,797 digits of 8 x 8 pixels inside scikit-learn, nothing to fetch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split
from scripts.studies.supervised.datasets.pairs import TASKS, as_split, draw_pairs, overlay
from scripts.studies.supervised.encoders import perceptron

CANVAS = (10, 12)  # the digits lie half over each other
TEST_SHARE = 1 / 3
PAIRS = 12_000, 2_000  # to train on, ten with each image; to test on


class Digits(Dataset):
    """Two of them on one canvas; images are split by seed, so that no test pair holds an image of training."""

    title = "Two overlaid digits of 8 x 8 pixels, left and right as tasks"
    needs = "scikit-learn, whose digits these are (pip install -c constraints.txt -e '.[digits]')"
    epochs, batch_size, learning_rate = 3, 128, 5e-3
    tasks, encoder = TASKS, perceptron(CANVAS[0] * CANVAS[1], 128, 64)

    def __init__(self, folder: Path) -> None:
        try:
            from sklearn.datasets import load_digits  # type: ignore[import-untyped]
        except ImportError as error:
            raise UsageError(f"digits: expected {self.needs}; it is not installed.") from error
        found = load_digits()
        self.images, self.labels = found.images / 16, found.target

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Two thirds of the images to train on, and pairs of them."""
        random = np.random.default_rng(seed)
        order = random.permutation(len(self.images))
        held_out, known = np.split(order, [round(TEST_SHARE * len(order))])
        train, test = (draw_pairs(count, rows, random) for count, rows in zip(PAIRS, (known, held_out), strict=True))
        return self._look_up(train), self._look_up(test)

    def _look_up(self, pairs: np.ndarray) -> Split:
        left, right = (self.images[rows] for rows in pairs.T)
        canvas = overlay(left, right, CANVAS).reshape(len(pairs), -1)
        return as_split(canvas, self.labels[pairs])
