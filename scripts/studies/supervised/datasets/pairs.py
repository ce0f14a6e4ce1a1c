"""Two images on one canvas, each to be named: what MultiMNIST is made of."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from scripts.studies.supervised.contracts import Split, Task
from scripts.studies.supervised.metrics import ACCURACY

TASKS = tuple(Task(name, 10, functional.cross_entropy, (ACCURACY,)) for name in ("left", "right"))


def overlay(
    left: Float[np.ndarray, "pairs side side"], right: Float[np.ndarray, "pairs side side"], size: tuple[int, int]
) -> Float[np.ndarray, "pairs height width"]:
    """Return both on a canvas, in its upper left and lower right corner; the darker ink is seen."""
    side = left.shape[1]
    canvas = np.zeros((2, len(left), *size), left.dtype)
    canvas[0, :, :side, :side] = left
    canvas[1, :, -side:, -side:] = right
    return np.asarray(canvas.max(axis=0))


def draw_pairs(count: int, rows: Int[np.ndarray, " known"], random: np.random.Generator) -> Int[np.ndarray, "pairs 2"]:
    """Return so many pairs of row numbers; each row comes equally often on each side, up to one time."""
    sides = [np.concatenate([random.permutation(rows) for _ in range(-(-count // len(rows)))])[:count] for _ in TASKS]
    return np.stack(sides, axis=1)


def as_split(canvas: Float[np.ndarray, "pairs ..."], labels: Int[np.ndarray, "pairs 2"]) -> Split:
    """Return pairs as rows with two targets, a digit each."""
    targets = torch.from_numpy(labels.astype(np.int64))
    return Split(torch.from_numpy(np.ascontiguousarray(canvas, np.float32)), tuple(targets.T.contiguous()))
