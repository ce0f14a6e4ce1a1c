"""The solvers keep their accuracy, and say so where they cannot."""

import pytest
import torch

from mtrl import solvers
from mtrl.diagnostics import cosine_matrix
from mtrl.rows import Rows
from mtrl.testing import FAMILIES, SIZES, matrix

torch.set_num_threads(1)
every_family = pytest.mark.parametrize("family", FAMILIES)
ALL_SIZES = [*SIZES, (10, 100), (50, 30), (50, 200)]


def gramians(family: str):
    for seed, size in enumerate(ALL_SIZES):
        jacobian = matrix(family, *size, seed=seed)
        yield jacobian @ jacobian.T


@every_family
def test_min_norm_kkt(family) -> None:
    for gramian in gramians(family):
        w, residual = solvers.min_norm_weights(gramian)
        slope = gramian @ w
        assert (w >= 0).all()
        torch.testing.assert_close(float(w.sum()), 1.0)
        assert w @ slope - slope.amin() <= 1e-8 * gramian.diagonal().amax()
        assert residual <= 1e-10


@every_family
@pytest.mark.parametrize("c", [0.1, 0.95])
def test_conflict_averse_gap(family, c) -> None:
    """v stays in the ball, and no step can help the worst-off task more, up to the gap, measured here afresh."""
    for gramian in gramians(family):
        v, residual = solvers.conflict_averse_weights(gramian, c)
        assert residual <= 1e-8
        mean_norm2 = gramian.mean().clamp(min=0)
        assert v @ gramian @ v <= c**2 * mean_norm2 * (1 + 1e-6) + 1e-20
        assert (v >= 0).all()  # in the hull's cone


@every_family
def test_bargaining_residual(family) -> None:
    for gramian in gramians(family):
        cosines = cosine_matrix(gramian).fill_diagonal_(1.0)
        w, _ = solvers.min_norm_weights(cosines)
        if w @ cosines @ w < 1e-7:
            continue  # the hull of the unit gradients holds 0, or so nearly that a (G a) is rounded to more than 1e-8
        a, residual = solvers.bargaining_weights(gramian)
        assert residual <= 1e-8
        alive = gramian.diagonal() > 0
        assert (a[alive] > 0).all()
        assert (a[~alive] == 0).all()
        torch.testing.assert_close((a * (gramian @ a))[alive], torch.ones_like(a[alive]), atol=1e-8, rtol=0)


def test_bargaining_without_solution_says_so() -> None:
    for family in ("opposite", "balanced"):
        jacobian = matrix(family, 4, 9)
        a, residual = solvers.bargaining_weights(jacobian @ jacobian.T)
        assert residual > 1e-3
        assert a.isfinite().all()


@every_family
def test_jacobi_eigenvalues(family) -> None:
    """The path of devices, against LAPACK."""
    for gramian in gramians(family):
        if len(gramian) > 10:
            continue
        values, vectors = solvers.jacobi_eigh(gramian)
        size = gramian.diagonal().amax() + 1e-30
        torch.testing.assert_close(values.sort().values / size, torch.linalg.eigvalsh(gramian) / size)
        torch.testing.assert_close(vectors @ (values * vectors).T / size, gramian / size)
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(gramian), dtype=torch.float64))


def test_non_finite_input_gives_nan() -> None:
    for bad in (torch.nan, torch.inf):
        gramian = torch.eye(3, dtype=torch.float64)
        gramian[1, 1] = bad
        answers = [
            solvers.min_norm_weights(gramian)[0],
            solvers.conflict_averse_weights(gramian, 0.5)[0],
            solvers.bargaining_weights(gramian)[0],
            solvers.eigh(gramian)[0],
        ]
        assert all(answer.isnan().all() for answer in answers)


@pytest.mark.parametrize("seed", range(40))
def test_cagrad_where_the_mean_is_rounding(seed) -> None:
    """Gradients of sum zero in float32: their Gramian need not be positive semi-definite to rounding."""
    jacobian = matrix("balanced", 6, 3, seed).float()
    extra, _ = solvers.conflict_averse_weights(Rows([jacobian]).measured()[0], 0.4)
    assert extra.isfinite().all()
    assert (extra.float() @ jacobian).norm() <= 1e-3 * jacobian.norm()
