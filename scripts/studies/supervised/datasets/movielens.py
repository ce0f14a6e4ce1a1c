"""MovieLens: how a person rates a film, each genre a task (as in MoCoGrad's study; Chai et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import embedded
from scripts.studies.supervised.fetching import Member, Package
from scripts.studies.supervised.losses import squared
from scripts.studies.supervised.metrics import root_mean_square
from scripts.studies.supervised.reading import first_of, records

GENRES = (
    "Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical Mystery "
    "Romance Sci-Fi Thriller War Western"
).split()
TEST_SHARE = 1 / 5
FEATURES = 16  # of a person, of a film
MEAN = 3.5  # ratings are 1 to 5
MOST = 2**24  # numbers of persons, of films


class MovieLens(Dataset):
    """100,000 ratings; a rating belongs to the tasks of all genres of its film, so rows belong to tasks.

    Deviations from the study: the 100k version for its 10M, all 18 genres, two embeddings and a perceptron.
    """

    title = "MovieLens-100k: ratings of films, 18 genres as tasks"
    needs = (
        "ml-100k.inter and ml-100k.item (--fetch gets them), or u.data and u.item of ml-100k.zip from "
        "grouplens.org/datasets/movielens"
    )
    package = Package(
        "recbole==1.2.1",
        2.1,
        "the package's is MIT; the data is GroupLens': for research, not to be passed on without their permission",
        (
            Member(
                "recbole/dataset_example/ml-100k/ml-100k.inter",
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            ),
            Member(
                "recbole/dataset_example/ml-100k/ml-100k.item",
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            ),
        ),
    )
    epochs, batch_size, learning_rate = 2, 64, 1e-3
    tasks = tuple(Task(genre, 1, squared, (root_mean_square(),)) for genre in GENRES)

    def __init__(self, folder: Path) -> None:
        ratings = first_of(folder, ["ml-100k.inter", "u.data"], self.needs)
        whole = ratings.suffix == ".data"
        films = first_of(folder, ["u.item" if whole else "ml-100k.item"], self.needs)
        rows = list(records(ratings, "\t", 4))[0 if whole else 1 :]
        try:
            self.names = torch.tensor([[int(person), int(film)] for person, film, _, _ in rows])
            self.ratings = torch.tensor([float(rating) - MEAN for _, _, rating, _ in rows])
        except ValueError as error:
            raise UsageError(f"{ratings}: expected numbers of a person and a film, and a rating; {error}.") from error
        if not len(rows) or self.names.min() < 0 or self.names.max() >= MOST:
            raise UsageError(
                f"{ratings}: expected numbers of persons and films from 0 to {MOST - 1}; found none or others."
            )
        if not ((self.ratings >= 1 - MEAN) & (self.ratings <= 5 - MEAN)).all():
            raise UsageError(f"{ratings}: expected ratings from 1 to 5; found others.")
        try:
            genres = _genres_of_the_archive(films) if whole else _genres(films)
        except ValueError as error:
            raise UsageError(f"{films}: expected the number of a film in the first column; {error}.") from error
        if unknown := set(self.names[:, 1].tolist()) - set(genres):
            raise UsageError(f"{films}: expected all rated films; {len(unknown)} are missing, such as {min(unknown)}.")
        self.has = torch.tensor([[genre in genres[film] for genre in GENRES] for film in self.names[:, 1].tolist()])
        self.encoder = embedded(tuple((self.names.max(0).values + 1).tolist()), FEATURES, 64, 32)

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Four fifths of the ratings to train on, by seed."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.names)))
        count = round(TEST_SHARE * len(order))
        return self._split(order[count:]), self._split(order[:count])

    def _split(self, rows: Tensor) -> Split:
        members = tuple(mask.nonzero()[:, 0] for mask in self.has[rows].T)
        return Split(self.names[rows], (self.ratings[rows],) * len(GENRES), members)


def _genres(path: Path) -> dict[int, set[str]]:
    """Read RecBole's table: number, title, year, and the genres with spaces between."""
    return {int(number): set(words.split(" ")) for number, _, _, words in list(records(path, "\t", 4))[1:]}


def _genres_of_the_archive(path: Path) -> dict[int, set[str]]:
    """Read GroupLens' table: number, four columns more, and 19 flags, the first of which is `unknown`."""
    return {
        int(line[0]): {genre for genre, flag in zip(GENRES, line[6:], strict=True) if flag == "1"}
        for line in records(path, "|", 24, encoding="latin-1")
    }
