"""The networks that the data sets are read with, as stages."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from scripts.studies.supervised.contracts import Encoder, Stage


def perceptron(inputs: int, *widths: int) -> Encoder:
    """Fully connected layers on vectors, and a linear head."""
    return Encoder(_layers(inputs, widths), inputs)


def embedded(sizes: tuple[int, ...], features: int, *widths: int) -> Encoder:
    """Fully connected layers on names, (rows, names) as integers: each kind of name has `sizes` values.

    :param features: numbers that stand for a name.
    """
    inputs = len(sizes) * features
    return Encoder(_layers(inputs, widths), inputs, stem=partial(Embeddings, sizes, features))


def lenet(classes_features: int = 50) -> Encoder:
    """LeNet for 28 x 28 pixels, two layers in each head (Sener and Koltun 2018), without their dropout."""
    return Encoder(
        (
            Stage(partial(_convolution, 1, 10), 10),
            Stage(partial(_convolution, 10, 20), 20),
            Stage(lambda: nn.Sequential(nn.Flatten(), nn.Linear(320, classes_features), nn.ReLU()), classes_features),
        ),
        28 * 28,
        head=_two_layers,
    )


class Embeddings(nn.Module):
    """A vector per name, side by side.

    :param sizes: how many names there are of each kind.
    """

    offsets: Tensor

    def __init__(self, sizes: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), features)
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0))

    def forward(self, names: Tensor) -> Tensor:
        """(rows, kinds) -> (rows, kinds * features)."""
        return self.table(names + self.offsets).flatten(1)


def _layers(inputs: int, widths: tuple[int, ...]) -> tuple[Stage, ...]:
    sizes = zip((inputs, *widths[:-1]), widths, strict=True)
    return tuple(Stage(partial(_layer, before, after), after) for before, after in sizes)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 5), nn.MaxPool2d(2), nn.ReLU())


def _two_layers(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_layer(features, features), nn.Linear(features, outputs))
