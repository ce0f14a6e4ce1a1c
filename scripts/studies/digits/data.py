"""Pairs of overlaid digits, made of the 1,797 images of 8 x 8 that come inside scikit-learn: nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scripts.common.usage import UsageError

TASKS = ("left", "right")
HEIGHT, WIDTH = 10, 12  # the left digit sits in the upper left corner, the right one in the lower right
PIXELS = HEIGHT * WIDTH
TEST_SHARE = 1 / 3
TEST_PAIRS = 2_000

Images = Float[np.ndarray, "images 8 8"]
Labels = Int[np.ndarray, " images"]


class Pairs(NamedTuple):
    """All that one seed trains and is tested on, the same for every aggregator."""

    batches: Float[Tensor, "updates rows pixels"]
    labels: Int[Tensor, "updates rows 2"]
    test: Float[Tensor, "pairs pixels"]
    test_labels: Int[Tensor, "pairs 2"]


def load_images() -> tuple[Images, Labels]:
    """scikit-learn's digits, ink in [0, 1]. Raises UsageError if it is not installed."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            "expected scikit-learn, whose digits these are; it is not installed. "
            "Install it: pip install -e '.[digits]', or pip install scikit-learn"
        ) from error
    digits = load_digits()
    return digits.images / 16, digits.target


def make_pairs(images: Images, labels: Labels, seed: int, epochs: int, batch_size: int) -> Pairs:
    """Batches and test pairs of a seed. Images are split first, so that no test pair holds an image of training.

    An epoch shows each training image once on the left and once on the right, in pairs drawn anew; what does not fill
    a batch is left out. Raises UsageError if there are not enough for one batch.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    held_out, known = np.split(order, [round(TEST_SHARE * len(images))])
    if batch_size > len(known):
        raise UsageError(f"--batch-size: expected at most {len(known)}, the images of training; found {batch_size}.")
    whole = len(known) // batch_size * batch_size
    epoch_pairs = [np.stack([random.permutation(known)[:whole] for _ in TASKS], axis=1) for _ in range(epochs)]
    batches = np.concatenate(epoch_pairs).reshape(-1, batch_size, 2)
    test = random.choice(held_out, (TEST_PAIRS, 2))
    return Pairs(*_look_up(images, labels, batches), *_look_up(images, labels, test))


def _look_up(images: Images, labels: Labels, pairs: Int[np.ndarray, "*n 2"]) -> tuple[Tensor, Tensor]:
    canvas = overlay(images[pairs[..., 0]], images[pairs[..., 1]])
    return torch.from_numpy(canvas).float().flatten(-2), torch.from_numpy(labels[pairs])


def overlay(left: Float[np.ndarray, "*n 8 8"], right: Float[np.ndarray, "*n 8 8"]) -> Float[np.ndarray, "*n 10 12"]:
    """Both digits on one canvas, half over each other; where both have ink, the darker one is seen."""
    canvas = np.zeros((2, *left.shape[:-2], HEIGHT, WIDTH))
    canvas[0, ..., :8, :8] = left
    canvas[1, ..., -8:, -8:] = right
    return np.asarray(canvas.max(axis=0))
