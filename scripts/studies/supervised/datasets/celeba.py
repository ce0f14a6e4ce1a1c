"""CelebA: 40 attributes of a face, yes or no (Liu et al. 2015; as tasks: Sener and Koltun 2018)."""

from __future__ import annotations

from pathlib import Path

import torch

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import convolutions
from scripts.studies.supervised.files import Files, picture
from scripts.studies.supervised.losses import binary
from scripts.studies.supervised.metrics import ERROR_RATE
from scripts.studies.supervised.reading import content, first_of

SIDE = 64
PARTS = {"train": "0", "test": "2"}  # of the published partition; 1 are those to validate on
PICTURES = "img_align_celeba"
TABLES = "list_attr_celeba.txt", "list_eval_partition.txt"


class CelebA(Dataset):
    """202,599 faces, 64 x 64 pixels of them, with the published partition.

    Deviation from the papers: four convolutions in place of a ResNet-18.
    """

    title = "CelebA: 40 attributes of a face as tasks"
    needs = f"the folder {PICTURES}, {TABLES[0]} and {TABLES[1]}, from mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    epochs, batch_size, learning_rate = 10, 128, 1e-3
    encoder = convolutions((3, SIDE, SIDE), (32, 64, 128, 256), (256,))

    def __init__(self, folder: Path) -> None:
        attributes, partition = (first_of(folder, [name, f"celeba/{name}"], self.needs) for name in TABLES)
        self.pictures = attributes.parent / PICTURES
        table = [*_words(attributes), [], []]
        count, header, lines = *table[:2], [*filter(None, table[2:])]
        if header and (len(lines) != len({line[0] for line in lines}) or count != [str(len(lines))]):
            raise UsageError(
                f"{attributes}: expected as many pictures, each once, as its first line says; found others."
            )
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise UsageError(f"{attributes}: expected the name of each attribute once; found {twice} again.")
        self.tasks = tuple(Task(name, 1, binary, (ERROR_RATE,)) for name in header)
        part_of = {words[0]: words[1] for words in _words(partition) if len(words) == 2}
        self.rows: dict[str, list[tuple[Path, list[float]]]] = {part: [] for part in PARTS.values()}
        for number, (name, *answers) in enumerate(lines, 3):
            if len(answers) != len(header) or not set(answers) <= {"1", "-1"}:
                raise UsageError(f"{attributes}: expected {len(header)} answers of 1 or -1; line {number} has others.")
            if name not in part_of:
                raise UsageError(
                    f"{partition}: expected all pictures; {name} is missing. It is cut off, or another file."
                )
            if part_of[name] in self.rows:
                self.rows[part_of[name]].append((self.pictures / name, [float(answer == "1") for answer in answers]))
        if not header or not all(self.rows.values()):
            raise UsageError(f"{attributes}: expected pictures to train on and to test on; found none of one kind.")
        present = {path.name for path in self.pictures.glob("*")} if self.pictures.is_dir() else set()
        if missing := {path.name for rows in self.rows.values() for path, _ in rows} - present:
            raise UsageError(
                f"{self.pictures}: expected the pictures of {TABLES[0]}; {len(missing)} are missing, such as "
                f"{min(missing)}."
            )

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Return the published ones, for every seed."""
        return self._split(PARTS["train"]), self._split(PARTS["test"])

    def _split(self, part: str) -> Split:
        paths, answers = zip(*self.rows[part], strict=True)
        return Split(Files(paths, picture(SIDE)), tuple(torch.tensor(answers).T.contiguous()))


def _words(path: Path) -> list[list[str]]:
    return [line.split() for line in content(path).decode("utf-8-sig", "replace").splitlines() if line.strip()]
