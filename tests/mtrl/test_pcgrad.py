"""PCGrad against an independent slow reference, TorchJD, and the paper's theorems."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtrl import PCGrad
from mtrl.diagnostics import cosine_matrix, magnitude_similarity
from mtrl.testing import matrix
from tests.jacobians import FAMILIES, jacobians

torch.set_num_threads(1)


def algorithm_1(jacobian: Tensor, orders: list[list[int]]) -> Tensor:
    """Sum of the projected gradients, pair by pair on the vectors themselves, as the paper writes it."""
    total = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        projected = jacobian[i].clone()
        for j in order:
            original = jacobian[j]
            product, norm2 = float(projected @ original), float(original @ original)
            if product < 0:
                projected = projected - product / norm2 * original
        total += projected
    return total


def drawn_orders(num_tasks: int, seed: int = 0) -> list[list[int]]:
    return PCGrad(seed=seed).draw_orders(num_tasks).tolist()


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_algorithm_1(family, num_tasks) -> None:
    jacobian = matrix(family, num_tasks, 12, seed=3)
    expected = algorithm_1(jacobian, drawn_orders(num_tasks, seed=5))
    found = PCGrad(reduction="sum", seed=5)(jacobian, torch.ones(num_tasks))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@given(jacobian=jacobians, seed=st.integers(0, 1000))
def test_equals_algorithm_1_on_families(jacobian, seed) -> None:
    orders = drawn_orders(len(jacobian), seed)
    expected = algorithm_1(jacobian, orders) / len(jacobian)
    found = PCGrad(seed=seed)(jacobian, torch.ones(len(jacobian)))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(jacobian.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_torchjd_for_two_tasks(family) -> None:
    """For two tasks the order does not matter; TorchJD sums."""
    torchjd = pytest.importorskip("torchjd.aggregation")
    jacobian = matrix(family, 2, 6, seed=4)
    found = PCGrad(reduction="sum")(jacobian, torch.ones(2))
    torch.testing.assert_close(found, torchjd.PCGrad()(jacobian), rtol=1e-8, atol=1e-8)


def test_hand_worked() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    # g1' = (1, 0) + 1/2 (-1, 1) = (1/2, 1/2);  g2' = (-1, 1) + (1, 0) = (0, 1)
    torch.testing.assert_close(PCGrad()(jacobian, torch.ones(2)), torch.tensor([0.25, 0.75]))


@given(jacobian=jacobians)
def test_for_two_tasks_the_update_conflicts_with_none(jacobian) -> None:
    pair = jacobian[:2]
    products = pair @ PCGrad()(pair, torch.ones(len(pair)))
    assert (products >= -1e-9 * pair.square().sum()).all()


def test_opposite_gradients_cancel_and_a_dead_task_is_passed_over() -> None:
    assert PCGrad()(torch.tensor([[1.0, 2.0], [-3.0, -6.0]]), torch.ones(2)).abs().max() < 1e-6
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(PCGrad("sum")(jacobian, torch.ones(3)), torch.tensor([0.5, 1.5]))


def test_lengths_that_underflow_when_squared_give_no_nan() -> None:
    for small in (1e-22, 1e-24, 1e-30, 1e-40):
        jacobian = torch.tensor([[1.0, 0.5], [-small, 0.0], [1e10, -1e10]])
        assert PCGrad()(jacobian, torch.ones(3)).isfinite().all()


# ---- orders


def test_every_task_has_its_own_order_of_the_others() -> None:
    """Trap 3: one order shared by all tasks, or drawn and thrown away."""
    aggregator, seen = PCGrad(), set()
    for _ in range(20):
        orders = aggregator.draw_orders(6).tolist()
        for i, order in enumerate(orders):
            assert sorted([*order, i]) == list(range(6))
        seen.update((i, tuple(order)) for i, order in enumerate(orders))
    assert len(seen) > 60  # of 6 x 120 possible; one order for all calls would leave 6


def test_orders_are_used() -> None:
    jacobian, losses = matrix("random", 6, 4, seed=0), torch.ones(6)
    aggregator = PCGrad()
    updates = [aggregator(jacobian, losses) for _ in range(10)]
    assert len({tuple(update.tolist()) for update in updates}) > 5
    aggregator.reset(*jacobian.shape)
    again = [aggregator(jacobian, losses) for _ in range(10)]
    assert all(torch.equal(a, b) for a, b in zip(updates, again, strict=True))
    assert not torch.equal(PCGrad(seed=1)(jacobian, losses), updates[0])


def test_each_order_is_equally_likely() -> None:
    aggregator, counts = PCGrad(), torch.zeros(6)
    for _ in range(600):
        for order in aggregator.draw_orders(4).argsort(1).argsort(1)[:, :3].tolist():
            counts[
                {(0, 1, 2): 0, (0, 2, 1): 1, (1, 0, 2): 2, (1, 2, 0): 3, (2, 0, 1): 4, (2, 1, 0): 5}[tuple(order)]
            ] += 1
    assert (counts / counts.sum() - 1 / 6).abs().max() < 0.03  # 4 standard errors


# ---- the paper's theorems, on convex quadratics, on the scale of the sum


def quadratic(seed: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.3 * torch.eye(dim), torch.randn(dim, generator=generator, dtype=torch.float64)


def two_losses(theta: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([0.5 * (theta - centre) @ hessian @ (theta - centre) for hessian, centre in (first, second)])


def task_gradients(theta: Tensor, *tasks: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([hessian @ (theta - centre) for hessian, centre in tasks])


@pytest.mark.parametrize("seed", range(4))
def test_theorem_1(seed) -> None:
    """With a step of at most 1/L, two convex tasks reach the optimum of the sum, or a point of exact opposition."""
    first, second = quadratic(seed), quadratic(seed + 100)
    hessian = first[0] + second[0]
    step = 1 / torch.linalg.eigvalsh(hessian)[-1]
    theta, aggregator, totals = torch.full((3,), 3.0, dtype=torch.float64), PCGrad(reduction="sum"), []
    for _ in range(800):
        losses = two_losses(theta, first, second)
        totals.append(losses.sum().item())
        theta = theta - step * aggregator(task_gradients(theta, first, second), losses)
    assert all(after <= before + 1e-12 for before, after in pairwise(totals))
    optimum = torch.linalg.solve(hessian, first[0] @ first[1] + second[0] @ second[1])
    excess = totals[-1] - two_losses(optimum, first, second).sum()
    jacobian = task_gradients(theta, first, second)
    assert excess < 1e-8 or cosine_matrix(jacobian @ jacobian.T)[0, 1] < -1 + 1e-6


def test_theorem_2() -> None:
    """Where its conditions hold, one step of PCGrad lowers the sum at least as far as one plain step.

    With l = g^T H g / |g|^2, exact on a quadratic: (a) cos <= -Phi, (b) l >= xi L, (c) step >= 2 / (l - xi L).
    """
    held = 0
    for seed in range(600):
        first, second = quadratic(2 * seed, dim=2), quadratic(2 * seed + 1, dim=2)
        theta = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        jacobian = task_gradients(theta, first, second)
        g1, g2, g = jacobian[0], jacobian[1], jacobian.sum(0)
        hessian = first[0] + second[0]
        cosine, phi = cosine_matrix(jacobian @ jacobian.T)[0, 1], magnitude_similarity(jacobian @ jacobian.T)[0, 1]
        xi = (1 - cosine**2) * (g1 - g2).square().sum() / g.square().sum()
        margin = g @ hessian @ g / g.square().sum() - xi * torch.linalg.eigvalsh(hessian)[-1]
        if cosine <= -phi and margin > 0:
            held += 1
            surgery = PCGrad(reduction="sum")(jacobian, torch.ones(2))
            for step in (2 / margin, 5 / margin):
                after = [two_losses(theta - step * update, first, second).sum() for update in (surgery, g)]
                assert after[0] <= after[1] + 1e-9
    assert held >= 10
