"""The networks that the data sets are read with, as stages."""

from __future__ import annotations

import math
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


def lenet(features: int = 50) -> Encoder:
    """LeNet for 28 x 28 pixels, two layers in each head (Sener and Koltun 2018), without their dropout."""
    return Encoder(
        (
            Stage(partial(_convolution, 1, 10), 10),
            Stage(partial(_convolution, 10, 20), 20),
            Stage(lambda: nn.Sequential(nn.Flatten(), nn.Linear(320, features), nn.ReLU()), features),
        ),
        28 * 28,
        head=_two_layers,
    )


def convolutions(shape: tuple[int, int, int], channels: tuple[int, ...], widths: tuple[int, ...]) -> Encoder:
    """Convolutions of 3 x 3, each of which halves the picture, then fully connected layers (Yu et al. 2020, J.1)."""
    folded = [
        Stage(partial(_halving, before, after), after)
        for before, after in zip((shape[0], *channels[:-1]), channels, strict=True)
    ]
    left = channels[-1] * (shape[1] >> len(channels)) * (shape[2] >> len(channels))
    first, *rest = _layers(left, widths)
    flat = Stage(lambda: nn.Sequential(nn.Flatten(), first.build()), first.features)
    return Encoder((*folded, flat, *rest), math.prod(shape))


def segnet(size: tuple[int, int], widths: tuple[int, ...]) -> Encoder:
    """SegNet (Badrinarayanan et al. 2017): convolutions that halve the picture and others that double it again.

    :param size: height and width; 2^(number of widths) must divide them.
    """
    down = zip((3, *widths[:-1]), widths, strict=True)
    up = zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True)
    stages = [Stage(partial(_grouped, before, after, nn.MaxPool2d(2)), after) for before, after in down]
    stages += [Stage(partial(_grouped, before, after, nn.Upsample(scale_factor=2)), after) for before, after in up]
    return Encoder(tuple(stages), 3 * size[0] * size[1], head=_per_pixel)


def mixed(sizes: tuple[int, ...], numbers: int, features: int, *widths: int) -> Encoder:
    """Fully connected layers on names and numbers, packed by `Mixed.pack`."""
    inputs = len(sizes) * features + numbers
    return Encoder(_layers(inputs, widths), inputs, stem=partial(Mixed, sizes, features))


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


class Mixed(Embeddings):
    """A vector per name, then the numbers of the row."""

    @staticmethod
    def pack(names: Tensor, numbers: Tensor) -> Tensor:
        """Put names (rows, kinds) and numbers into one tensor (rows, kinds + numbers): the names' bits as float32."""
        return torch.cat([names.int().view(torch.float32), numbers.float()], dim=1)

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, kinds + numbers) -> (rows, kinds * features + numbers)."""
        kinds = len(self.offsets)
        names = rows[:, :kinds].contiguous().view(torch.int32).long()
        return torch.cat([super().forward(names), rows[:, kinds:]], dim=1)


def _layers(inputs: int, widths: tuple[int, ...]) -> tuple[Stage, ...]:
    sizes = zip((inputs, *widths[:-1]), widths, strict=True)
    return tuple(Stage(partial(_layer, before, after), after) for before, after in sizes)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 5), nn.MaxPool2d(2), nn.ReLU())


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


def _grouped(inputs: int, outputs: int, scale: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(), scale)


def _per_pixel(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, outputs, 1))


def _two_layers(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_layer(features, features), nn.Linear(features, outputs))
