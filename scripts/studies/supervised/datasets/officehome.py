"""Office-Home: 65 kinds of things in four styles, each style a task (Venkateswara et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import convolutions
from scripts.studies.supervised.files import Files, picture
from scripts.studies.supervised.metrics import ACCURACY

STYLES = {"art": ("Art",), "clipart": ("Clipart",), "product": ("Product",), "real": ("Real World", "Real_World")}
CLASSES, SIDE = 65, 64
ENDINGS = (".jpg", ".jpeg", ".png")
TEST_SHARE = 1 / 5


class OfficeHome(Dataset):
    """15,500 pictures; each belongs to the task of its style, and a fifth of every style is held out by seed.

    Deviation from the papers: four convolutions from random weights in place of a ResNet-18 with those of ImageNet, so
    that the numbers say little beside theirs.
    """

    title = "Office-Home: four styles of pictures as tasks"
    needs = (
        f"the folders {', '.join(names[0] for names in STYLES.values())}, in each a folder of pictures per class, from "
        "hemanthdv.github.io/officehome-dataset"
    )
    epochs, batch_size, learning_rate = 30, 16, 1e-3
    tasks = tuple(Task(style, CLASSES, functional.cross_entropy, (ACCURACY,)) for style in STYLES)
    encoder = convolutions((3, SIDE, SIDE), (32, 64, 128, 256), (256,))

    def __init__(self, folder: Path) -> None:
        self.paths: list[Path] = []
        known: list[str] = []
        labels, styles = [], []
        for number, names in enumerate(STYLES.values()):
            place = next((folder / name for name in names if (folder / name).is_dir()), None)
            if place is None:
                found = "nothing of that name" if folder.is_dir() else "no such folder"
                raise UsageError(f"{folder}: expected {self.needs}; found {found} for {names[0]}.")
            kinds = sorted(path.name for path in place.iterdir() if path.is_dir())
            known = known or kinds
            if len(kinds) != CLASSES or kinds != known:
                odd = min({*kinds} ^ {*known}, default=f"{len(kinds)} of them")
                raise UsageError(
                    f"{place}: expected the same {CLASSES} folders of classes in every style; {odd} is odd."
                )
            for label, kind in enumerate(kinds):
                own = sorted(path for path in (place / kind).iterdir() if path.suffix.lower() in ENDINGS)
                self.paths += own
                labels += [label] * len(own)
                styles += [number] * len(own)
        self.labels, self.styles = torch.tensor(labels), torch.tensor(styles)

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Four fifths of each style to train on, by seed."""
        random = np.random.default_rng(seed)
        held_out = torch.zeros(len(self.paths), dtype=torch.bool)
        for style in range(len(STYLES)):
            rows = (self.styles == style).nonzero()[:, 0]
            held_out[rows[random.permutation(len(rows))[: round(TEST_SHARE * len(rows))]]] = True
        return self._split(~held_out), self._split(held_out)

    def _split(self, chosen: Tensor) -> Split:
        rows = chosen.nonzero()[:, 0]
        members = tuple((self.styles[rows] == style).nonzero()[:, 0] for style in range(len(STYLES)))
        inputs = Files([self.paths[row] for row in rows.tolist()], picture(SIDE))
        return Split(inputs, (self.labels[rows],) * len(STYLES), members)
