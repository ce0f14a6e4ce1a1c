"""What tests of single methods share: a Jacobian by hand or by family, a method's answer to it, and what is near."""

import pytest
import torch
from torch import Tensor

from mtrl.testing import FAMILIES, SIZES, matrix

every_family = pytest.mark.parametrize("family", FAMILIES)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def answer(aggregator, jacobian: Tensor, losses: Tensor | None = None) -> Tensor:
    return aggregator(jacobian, torch.ones(len(jacobian)) if losses is None else losses)


def samples(family: str) -> list[Tensor]:
    return [matrix(family, *size, seed=seed) for seed, size in enumerate(SIZES)]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm() + 1e-12, (found, expected)
