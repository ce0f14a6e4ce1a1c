"""Diagnostics against numbers worked out by hand."""

import math

import torch
from hypothesis import given
from torch import Tensor

from mtrl import diagnostics as measure
from tests.jacobians import jacobians

# lengths 5, 2, 0, 10;  g1 . g2 = 0, g1 . g4 = -50 (opposite), g2 . g4 = 0
JACOBIAN = torch.tensor([[3.0, 4, 0], [0, 0, 2], [0, 0, 0], [-6, -8, 0]], dtype=torch.float64)
GRAMIAN = JACOBIAN @ JACOBIAN.T


def close(found: Tensor, expected: list | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_norms_and_cosines() -> None:
    close(measure.gradient_norms(GRAMIAN), [5.0, 2, 0, 10])
    close(measure.cosine_matrix(GRAMIAN), [[1.0, 0, 0, -1], [0, 1, 0, 0], [0, 0, 0, 0], [-1, 0, 0, 1]])


def test_conflict_share() -> None:
    close(measure.conflict_share(GRAMIAN), 1 / 6)
    close(measure.conflict_share(GRAMIAN[:1, :1]), 0.0)


def test_magnitude_similarity() -> None:
    """A sum in the denominator; a common note prints a product, with which 5 and 10 would give 2."""
    similarity = measure.magnitude_similarity(GRAMIAN)
    close(similarity[0], [1.0, 20 / 29, 0, 0.8])
    close(similarity[2], [0.0, 0, 1, 0])


def test_surgery_distance_and_angle() -> None:
    gramian = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)  # mean (1/2, 1/2)
    for weights, distance, angle in [
        ([0.5, 0.5], 0.0, 0.0),
        ([1.0, 1.0], 1.0, 0.0),
        ([0.5, -0.5], math.sqrt(2), math.pi / 2),
        ([0.0, 0.5], math.sqrt(0.5), math.pi / 4),
        ([0.0, 0.0], 1.0, 0.0),
    ]:
        w = torch.tensor(weights, dtype=torch.float64)
        close(measure.surgery_distance(gramian, w), distance)
        torch.testing.assert_close(float(measure.surgery_angle(gramian, w)), angle, atol=1e-7, rtol=0)
    w, plain = torch.tensor([2.0, 0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    close(measure.surgery_distance(gramian, w, plain), 1.0)


def test_zero_gradients_are_defined() -> None:
    zero, weights = torch.zeros(2, 2, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    close(measure.surgery_distance(zero, weights), 0.0)
    close(measure.surgery_angle(zero, weights), 0.0)


@given(jacobian=jacobians)
def test_ranges(jacobian) -> None:
    gramian = jacobian @ jacobian.T
    for found, low, high in [
        (measure.cosine_matrix(gramian), -1, 1),
        (measure.magnitude_similarity(gramian), 0, 1 + 1e-12),
        (measure.conflict_share(gramian), 0, 1),
    ]:
        assert (found >= low).all()
        assert (found <= high).all()
