"""Curvature, xi, Theorem 2's conditions, GCD and TCI against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl import diagnostics as measure

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
GENERATOR = torch.Generator().manual_seed(0)
ROOT = torch.randn(4, 4, generator=GENERATOR, dtype=torch.float64)
HESSIAN, START = ROOT @ ROOT.T, torch.randn(4, generator=GENERATOR, dtype=torch.float64)


def quadratic(theta: Tensor) -> Tensor:
    return 0.5 * theta @ HESSIAN @ theta


def test_curvature_of_a_quadratic_is_that_of_its_hessian() -> None:
    gradient = HESSIAN @ START
    for points in (1, 2, 8):
        found = measure.curvature(quadratic, START, START + 1, points)
        torch.testing.assert_close(found, gradient @ HESSIAN @ gradient)


def test_taylor_is_the_squared_rate_times_the_exact_one_on_a_quadratic() -> None:
    rate, gradient = 0.03, HESSIAN @ START
    step = -rate * gradient
    taylor = measure.taylor_curvature(quadratic(START), quadratic(START + step), gradient, step)
    torch.testing.assert_close(taylor, rate**2 * measure.curvature(quadratic, START, START + step))


def test_they_differ_under_another_step_and_off_quadratics() -> None:
    gradient = HESSIAN @ START
    step = -0.03 * gradient.sign()  # as Adam's first
    taylor = measure.taylor_curvature(quadratic(START), quadratic(START + step), gradient, step)
    torch.testing.assert_close(taylor, step @ HESSIAN @ step)
    assert (taylor / measure.curvature(quadratic, START, START + step) / 0.03**2 - 1).abs() > 0.1


def test_the_path_is_averaged() -> None:
    """L = t^4: the average of 12 (1 + a)^2 over a from 1 to 2 is 28; Taylor weights the start, 2 (1 - a)."""
    start, end = torch.ones(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
    found = measure.curvature(lambda t: (t**4).sum(), start, end, points=2)
    torch.testing.assert_close(found, torch.tensor(4.0 * 28 * 4, dtype=torch.float64))
    taylor = measure.taylor_curvature(*(t.pow(4).sum() for t in (start, end)), 4 * start**3, end - start)
    torch.testing.assert_close(taylor, torch.tensor(22.0, dtype=torch.float64))


def test_nodes_are_those_of_gauss() -> None:
    for points in (1, 3, 8):
        nodes, weights = measure._gauss_legendre(points, START)
        expected_nodes, expected_weights = np.polynomial.legendre.leggauss(points)
        np.testing.assert_allclose(nodes.numpy(), (expected_nodes + 1) / 2, atol=1e-14)
        np.testing.assert_allclose(weights.numpy(), expected_weights / 2, atol=1e-14)
    with pytest.raises(ValueError, match="at least 1; found 0"):
        measure.curvature(quadratic, START, START, points=0)


def gramian(first: list[float], second: list[float]) -> Tensor:
    rows = torch.tensor([first, second], dtype=torch.float64)
    return rows @ rows.T


def test_xi() -> None:
    found = measure.xi(gramian([1, 0], [0, 2]))  # orthogonal: 1 * 5 / 5
    torch.testing.assert_close(found, torch.tensor([[0.0, 1], [1, 0]], dtype=torch.float64))
    # cos = -1/sqrt(2); difference (2, -1), sum (0, 1): 1/2 * 5 / 1
    torch.testing.assert_close(float(measure.xi(gramian([1, 0], [-1, 1]))[0, 1]), 2.5)
    assert float(measure.xi(gramian([1, 0], [-1, 0]))[0, 1]) == 0  # 0/0
    assert float(measure.xi(gramian([0, 0], [0, 0]))[0, 1]) == 0


def test_theorem_2_counts_among_the_conflicting() -> None:
    series = [
        gramian([1, 0], [1, 1]),  # no conflict
        gramian([1, 0], [-1, 1]),  # cos -0.71, similarity 0.94, xi 2.5: neither
        gramian([1, 0], [-9, 1]),  # cos -0.99, similarity 0.22, xi 0.02: both
        gramian([1, 0], [-0.1, 5]),  # cos -0.02, similarity 0.38, xi about 1.01: neither
    ]
    shares = measure.theorem_2(torch.stack(series))
    assert [round(float(share), 6) for share in shares] == [0.75, round(1 / 3, 6), round(1 / 3, 6)]
    assert all(math.isfinite(share) for share in measure.theorem_2(torch.stack(series[:1])))


def test_conflict_degree_and_intensity() -> None:
    torch.testing.assert_close(float(measure.conflict_degree(gramian([1, 0], [-2, 0]))[0, 1]), 2.0)
    risk_joint, risk_alone = torch.tensor([0.2, 0.5]), torch.tensor([0.3, 0.1])
    torch.testing.assert_close(measure.conflict_intensity(risk_joint, risk_alone), torch.tensor([0.1, -0.4]))
    success = measure.conflict_intensity(1 - risk_joint, 1 - risk_alone, more_is_better=True)
    torch.testing.assert_close(success, torch.tensor([0.1, -0.4]))
