"""Scalar and histogram critics: projections conserve mass and mean, losses equal slow references."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.networks.values import make_value

BINS, V_MAX = 21, 5.0
N, ROWS = 3, 7


def outputs(size=BINS, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(N, ROWS, size, generator=generator, dtype=torch.float64)


def backup_of(reward, discount=0.9, entropy=0.0):
    return lambda value: reward + discount * (value - entropy)


def slow_projection(probabilities, moved):
    """Bellemare et al. 2017, Algorithm 1, one atom at a time."""
    atoms = np.linspace(-V_MAX, V_MAX, BINS)
    step = atoms[1] - atoms[0]
    target = np.zeros(BINS)
    for p, z in zip(probabilities, moved, strict=True):
        b = (min(max(z, -V_MAX), V_MAX) + V_MAX) / step
        low, high = math.floor(b), math.ceil(b)
        if low == high:
            target[low] += p
        else:
            target[low] += p * (high - b)
            target[high] += p * (b - low)
    return target


@given(st.floats(-8, 8), st.floats(0, 1), st.integers(0, 5))
def test_c51_projects_as_its_paper_does(reward, discount, seed):
    value, found = make_value("c51", BINS, V_MAX), outputs(seed=seed)
    backup = backup_of(reward, discount)
    target = value.target(found, backup, "mean")
    mixture = found.softmax(-1).mean(0)
    for row in range(ROWS):
        expected = slow_projection(mixture[row].numpy(), backup(value.returns).numpy())
        np.testing.assert_allclose(target[row].numpy(), expected, atol=1e-9)


@given(st.floats(-2, 2), st.floats(0, 0.5), st.integers(0, 5))
def test_c51_conserves_mass_and_inside_the_range_the_mean(reward, discount, seed):
    value, found = make_value("c51", BINS, V_MAX), outputs(seed=seed)
    target = value.target(found, backup_of(reward, discount), "mean")  # within 2 + 0.5 * 5 < V_MAX
    torch.testing.assert_close(target.sum(-1), torch.ones(ROWS).double())
    expected = reward + discount * value.value(found).mean(0)
    torch.testing.assert_close(target @ value.returns, expected)


def test_returns_beyond_the_range_count_as_its_ends():
    for form in ("c51", "hl-gauss"):
        value = make_value(form, BINS, V_MAX)
        above, below = (value.target(outputs(), backup_of(sign * 1e6), "mean") for sign in (1, -1))
        assert (above[:, -1] > 0.45).all()
        assert (below[:, 0] > 0.45).all()
        torch.testing.assert_close(above.sum(-1), torch.ones(ROWS).double())


def test_c51_takes_the_least_critic_row_by_row():
    value, found = make_value("c51", BINS, V_MAX), outputs()
    target = value.target(found, lambda atoms: atoms, "min")
    least = value.value(found).argmin(0)
    assert len(set(least.tolist())) > 1
    for row in range(ROWS):
        torch.testing.assert_close(target[row], found[least[row], row].softmax(-1), rtol=0, atol=1e-12)


@given(st.floats(-4, 4))
def test_hl_gauss_is_a_normal_distribution_cut_into_bins(reward):
    value = make_value("hl-gauss", BINS, V_MAX)
    target = value.target(outputs(), backup_of(reward, 0.0), "mean")[0].numpy()
    step = 2 * V_MAX / (BINS - 1)
    sigma = 0.75 * step

    def below(x):
        return 0.5 * (1 + math.erf((x - reward) / (sigma * math.sqrt(2))))

    edges = np.linspace(-V_MAX - step / 2, V_MAX + step / 2, BINS + 1)
    mass = below(edges[-1]) - below(edges[0])
    expected = [(below(high) - below(low)) / mass for low, high in itertools.pairwise(edges)]
    np.testing.assert_allclose(target, expected, atol=1e-12)


def test_hl_gauss_keeps_the_mean_away_from_the_ends():
    value = make_value("hl-gauss", 101, 10.0)
    target = value.target(outputs(101), backup_of(3.21, 0.0), "mean")
    torch.testing.assert_close(target @ value.returns, torch.full((ROWS,), 3.21).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("form", ["c51", "hl-gauss"])
def test_cross_entropy_is_least_at_the_target(form):
    value = make_value(form, BINS, V_MAX)
    target = value.target(outputs(), backup_of(1.0), "mean")
    logits = outputs(seed=1).requires_grad_()
    expected = -(target * logits.softmax(-1).log()).sum(-1)
    loss = value.loss(logits, target)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, logits.softmax(-1) - target)  # zero where the histograms agree


def test_a_scalar_critic_is_stable_baselines():
    value, found = make_value("scalar", BINS, V_MAX), outputs(1)
    for reduction, reduce in (("min", lambda q: q.amin(0)), ("mean", lambda q: q.mean(0))):
        target = value.target(found, backup_of(1.0, 0.9, 0.5), reduction)
        torch.testing.assert_close(target.squeeze(-1), 1 + 0.9 * (reduce(found.squeeze(-1)) - 0.5))
    target = torch.zeros(ROWS, 1).double()
    torch.testing.assert_close(value.loss(found, target), 0.5 * found.squeeze(-1).square())


@pytest.mark.parametrize("form", ["c51", "hl-gauss"])
def test_histograms_in_float32_stay_near_those_in_float64(form):
    value, found = make_value(form, 101, 10.0), outputs(101)
    exact, rounded = (value.target(x, backup_of(0.3, 0.99, 0.01), "mean") for x in (found, found.float()))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=2e-5)
