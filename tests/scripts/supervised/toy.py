"""Small problems with known answers, in the form of a data set."""

import torch
from torch.nn import functional

from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import perceptron
from scripts.studies.supervised.losses import squared
from scripts.studies.supervised.metrics import ACCURACY, root_mean_square


class Toy(Dataset):
    """A class and a number, both of the same four inputs."""

    title, needs, package = "Toy", "nothing", None
    epochs, batch_size, learning_rate = 2, 8, 1e-2
    tasks = (
        Task("sign", 2, functional.cross_entropy, (ACCURACY,)),
        Task("sum", 1, squared, (root_mean_square(),)),
    )
    encoder = perceptron(4, 6, 5)
    rows = 40

    def __init__(self, folder):
        pass

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.rows, 4, generator=generator)
        targets = ((x[:, 0] > 0).long(), x.sum(1))
        cut = self.rows // 4
        return self.split(x[cut:], [y[cut:] for y in targets]), self.split(x[:cut], [y[:cut] for y in targets])

    def split(self, x, targets):
        return Split(x, tuple(targets))


class ToyOwn(Toy):
    """The same, where each row belongs to one task: twice as many to the second."""

    tasks = (Toy.tasks[1], Task("other", 1, squared, (root_mean_square(2.0),)))

    def split(self, x, targets):
        rows = torch.arange(len(x))
        return Split(x, (targets[1], -targets[1]), (rows[rows % 3 == 0], rows[rows % 3 > 0]))


class Broken(Toy):
    """A target that is no number, where the second task meets it."""

    def split(self, x, targets):
        return Split(x, (targets[0], torch.full_like(targets[1], float("nan"))))
