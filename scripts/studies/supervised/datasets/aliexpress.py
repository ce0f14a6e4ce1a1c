"""AliExpress: is an offer clicked, and is it bought? (Li et al. 2020; in MoCoGrad's study: Chai et al. 2024)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import Mixed, mixed
from scripts.studies.supervised.losses import binary
from scripts.studies.supervised.metrics import AreaUnderCurve
from scripts.studies.supervised.reading import first_of, is_finite, require_names

NAMES, NUMBERS, LABELS = 16, 63, 2
COLUMNS = 1 + NAMES + NUMBERS + LABELS  # the first is the number of the search
BLOCK = 100_000  # lines read at a time
FEATURES = 16  # of a name
MOST = 2**26  # names of a kind


class AliExpress(Dataset):
    """Offers shown in one country: 16 names and 63 numbers, then click and conversion; both judged by AUC."""

    title = "AliExpress: click and conversion as tasks"
    needs = (
        "train.csv and test.csv of one country, such as AliExpress_NL, as prepared for "
        "github.com/easezyc/Multitask-Recommendation-Library"
    )
    epochs, batch_size, learning_rate = 1, 2048, 1e-3
    tasks = tuple(Task(name, 1, binary, (AreaUnderCurve(),)) for name in ("click", "conversion"))

    def __init__(self, folder: Path) -> None:
        self.parts = [_offers(first_of(folder, [f"{part}.csv"], self.needs)) for part in ("train", "test")]
        sizes = torch.stack([names.max(0).values for names, _, _ in self.parts]).max(0).values + 1
        self.encoder = mixed(tuple(sizes.tolist()), NUMBERS, FEATURES, 512, 256, 128)

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Return the published ones, for every seed."""
        train, test = (
            Split(Mixed.pack(names, numbers), tuple(labels.T.contiguous())) for names, numbers, labels in self.parts
        )
        return train, test


def _offers(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Names (rows, 16) as int32, numbers (rows, 63) and labels (rows, 2) as float32."""
    blocks = []
    with path.open(errors="replace") as file:
        require_names(path, next(file, "no rows").split(","))
        while lines := list(islice(file, BLOCK)):
            try:
                block = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2)
            except ValueError as error:
                raise UsageError(f"{path}: expected numbers with commas between; {error}. Is it cut off?") from error
            if block.shape[1] != COLUMNS or not is_finite(block):
                raise UsageError(
                    f"{path}: expected {COLUMNS} columns of finite numbers; found {block.shape[1]}, or others."
                )
            names, labels = block[:, 1 : 1 + NAMES], block[:, -LABELS:]
            whole = names.min() >= 0 and names.max() < MOST and (names == names.round()).all()
            if not whole or not np.isin(labels, (0, 1)).all():
                raise UsageError(
                    f"{path}: expected names as whole numbers from 0 to {MOST - 1} and labels of 0 or 1; found others."
                )
            parts = names.astype(np.int32), block[:, 1 + NAMES : -LABELS].astype(np.float32), labels.astype(np.float32)
            blocks.append([torch.from_numpy(np.ascontiguousarray(part)) for part in parts])
    if not blocks:
        raise UsageError(f"{path}: expected offers; found no rows.")
    first, second, third = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return first, second, third
