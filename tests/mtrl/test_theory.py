"""What the PCGrad paper proves in its Appendix A, and what holds of MoCoGrad: docs/theory.md in numbers, in float64.

Theorem 2 and the convergence of Theorem 1 are in test_pcgrad.py.
"""

import math

import pytest
import torch
from torch import Tensor

from mtrl import MoCoGrad, PCGrad
from mtrl.diagnostics import cosine_matrix, magnitude_similarity, xi

torch.set_num_threads(1)


class Quadratics:
    """Loss i is half of (theta - centre_i)' H_i (theta - centre_i), strongly convex."""

    def __init__(self, num_tasks: int, seed: int, dim: int = 3, spread: float = 1.0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        roots = self.normal(num_tasks, dim, dim)
        self.hessians = roots @ roots.mT / dim + 0.3 * torch.eye(dim).double()
        self.centres = spread * self.normal(num_tasks, dim)
        self.lipschitz = float(torch.linalg.eigvalsh(self.hessians.sum(0))[-1])

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.random, dtype=torch.float64)

    def total(self, theta: Tensor) -> float:
        return float(0.5 * ((theta - self.centres) * self.jacobian(theta)).sum())

    def jacobian(self, theta: Tensor) -> Tensor:
        return (self.hessians @ (theta - self.centres)[:, :, None])[:, :, 0]

    def optimum(self) -> Tensor:
        pull = (self.hessians @ self.centres[:, :, None]).sum(0)[:, 0]
        return torch.linalg.solve(self.hessians.sum(0), pull)


def surgery(jacobian: Tensor, seed: int = 0) -> Tensor:
    return PCGrad(reduction="sum", seed=seed)(jacobian, torch.ones(len(jacobian)))


def test_theorem_1_inequality() -> None:
    """L(t+) <= L(t) - step / 2 (1 - cos^2) |g|^2 wherever two convex tasks conflict, with a step of at most 1 / L."""
    slacks = []
    for seed in range(60):
        tasks = Quadratics(2, seed)
        theta = tasks.normal(3)
        jacobian = tasks.jacobian(theta)
        cosine = float(cosine_matrix(jacobian @ jacobian.T)[0, 1])
        if cosine >= 0:
            continue
        for step in (0.5 / tasks.lipschitz, 1 / tasks.lipschitz):
            bound = tasks.total(theta) - step / 2 * (1 - cosine**2) * float(jacobian.sum(0).square().sum())
            slacks.append(bound - tasks.total(theta - step * surgery(jacobian)))
    assert len(slacks) >= 20
    assert min(slacks) > 0


def test_theorem_1_stalls_where_gradients_are_opposite() -> None:
    """Case (1): between the minima of two parabolas in one dimension the update is zero, the optimum elsewhere."""
    tasks = Quadratics(2, 0, dim=1)
    tasks.hessians, tasks.centres = torch.tensor([[[4.0]], [[1.0]]]).double(), torch.tensor([[-1.0], [1.0]]).double()
    between, outside = torch.tensor([0.5]).double(), torch.tensor([3.0]).double()
    assert surgery(tasks.jacobian(between)).abs() < 1e-12
    assert tasks.total(between) > tasks.total(tasks.optimum()) + 1
    for _ in range(100):  # from outside it comes to the nearer minimum, and no further
        outside = outside - 0.02 * surgery(tasks.jacobian(outside))
    assert 0.8 < outside < 1.01


def test_corollary_1_needs_more_than_its_condition() -> None:
    """T > 2 and a step of 1 / L: the proof replaces |g_PC| by |g|, but cos(g, g_PC) >= 1/2 does not make it shorter.

    What it needs is |g_PC| <= 2 cos |g|: then the sum falls. Without it, it may rise: it does for losses that curve
    alike in all directions.
    """
    held = rose = 0
    for seed in range(200):
        tasks = Quadratics(3 + seed % 4, seed, dim=4)
        theta = tasks.normal(4)
        jacobian = tasks.jacobian(theta)
        g, update = jacobian.sum(0), surgery(jacobian, seed)
        cosine = float(torch.cosine_similarity(g, update, dim=0))
        if cosine < 0.5 or torch.allclose(g, update):
            continue
        if update.norm() <= 2 * cosine * g.norm():
            held += 1
            assert tasks.total(theta - update / tasks.lipschitz) < tasks.total(theta)
        else:  # the same gradients at 0, of losses |theta + g_i|^2 / 2
            rose += 1
            tasks.hessians, tasks.centres = torch.eye(4).double().expand(len(jacobian), 4, 4), -jacobian
            assert tasks.total(-update / len(jacobian)) > tasks.total(torch.zeros(4).double())
    assert held >= 50
    assert rose >= 1


def test_proposition_1() -> None:
    """Not convex: the smallest |g_k|^2 of K steps is at most 2 (L_0 - L*) / (K (1 - alpha^2) step)."""

    def losses(theta: Tensor) -> Tensor:
        x, y = theta
        return torch.stack([x.sin() + (x - y).cos(), y.sin() + 0.5 * (2 * x).cos()])

    lipschitz, lowest, steps = 5.0, -3.5, 30  # bounds: of the Hessian of the sum, and of the sum
    for seed in range(3):
        theta = 3 * torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        start, alpha, squares = float(losses(theta).sum()), 0.0, []
        for _ in range(steps):
            jacobian = torch.autograd.functional.jacobian(losses, theta)
            squares.append(float(jacobian.sum(0).square().sum()))
            alpha = max(alpha, -float(cosine_matrix(jacobian @ jacobian.T)[0, 1]))
            theta = theta - surgery(jacobian) / lipschitz
        assert min(squares) <= 2 * (start - lowest) * lipschitz / (steps * max(1 - alpha**2, 1e-300))


def test_theorem_3() -> None:
    """Necessary and sufficient where H1 + H2 = L I, as then its bounds are equalities."""
    counts = {True: 0, False: 0}
    for seed in range(200):
        tasks = Quadratics(2, seed, dim=2)
        tasks.hessians[1] = tasks.lipschitz * torch.eye(2) - tasks.hessians[0]
        theta = tasks.normal(2)
        jacobian = tasks.jacobian(theta)
        gramian = jacobian @ jacobian.T
        cosine, phi = float(cosine_matrix(gramian)[0, 1]), float(magnitude_similarity(gramian)[0, 1])
        if cosine >= 0:
            continue
        square, scale = float(gramian.diagonal().sum()), float(xi(gramian)[0, 1])
        bend = 0.5 * float(gramian.sum()) * tasks.lipschitz * (1 - scale)
        limit = (square * cosine**2 + 2 * float(gramian[0, 1])) / bend
        for step in (0.3 * limit, 0.9 * limit, 1.1 * limit, 4 * limit):
            if step <= 0:
                continue
            first = -phi <= cosine and scale >= 1 and step <= limit
            expected = first or (cosine <= -phi and scale <= 1 and step >= limit)
            after, plain = (tasks.total(theta - step * update) for update in (surgery(jacobian), jacobian.sum(0)))
            assert (after <= plain) == expected
            counts[expected] += 1
    assert min(counts.values()) >= 40


def heavy_ball(tasks: Quadratics, as_printed: bool, steps: int = 300) -> float:
    """Distance to the common minimum after heavy-ball steps with the rates of Theorem 4."""
    eigenvalues = torch.linalg.eigvalsh(tasks.hessians)
    theta = before = 3 * tasks.normal(3)
    for _ in range(steps):
        jacobian = tasks.jacobian(theta)
        norms = jacobian.norm(dim=1)
        cosine = min(0.0, float(cosine_matrix(jacobian @ jacobian.T)[0, 1]))
        ratio = float(norms[0] / norms[1])
        weights = torch.tensor([1 - cosine / ratio, 1 - cosine * ratio]).double()
        mu, top = float(weights @ eigenvalues[:, 0]), float(weights @ eigenvalues[:, -1])
        alpha = 4 / (math.sqrt(top) + math.sqrt(mu)) ** (1 if as_printed else 2)
        beta = max(abs(1 - math.sqrt(alpha * mu)), abs(1 - math.sqrt(alpha * top))) ** 2
        theta, before = theta - alpha * surgery(jacobian) + beta * (theta - before), theta
        if not float(theta.norm()) < 1e6:
            return math.inf
        if float((theta - tasks.centres[0]).norm()) < 1e-9:
            break
    return float((theta - tasks.centres[0]).norm())


def test_theorem_4_with_the_square_that_is_missing_in_print() -> None:
    """Two tasks with one minimum: with 4 / (sqrt L + sqrt mu)^2 the heavy ball arrives, with the printed step never."""
    for seed in range(5):
        tasks = Quadratics(2, seed)
        tasks.hessians *= 10
        tasks.centres[1] = tasks.centres[0]
        assert heavy_ball(tasks, as_printed=False) < 1e-6
        assert heavy_ball(tasks, as_printed=True) > 1


@pytest.mark.parametrize(("num_tasks", "strengths"), [(2, (0.5,)), (5, (0.02, 0.5))])
def test_mocograd_reaches_the_optimum_for_two_tasks_and_stays_off_it_for_more(num_tasks, strengths) -> None:
    """At the optimum of the sum every task is moved by those in conflict with it, and the counts of these differ."""
    tasks, excesses = Quadratics(num_tasks, 1, dim=6), []
    least = tasks.total(tasks.optimum())
    for strength in strengths:
        method = MoCoGrad(reduction="sum", strength=strength)
        theta = torch.full((6,), 2.0, dtype=torch.float64)
        for _ in range(600):
            theta = theta - 0.3 / tasks.lipschitz * method(tasks.jacobian(theta), torch.ones(num_tasks))
        excesses.append(tasks.total(theta) - least)
    if num_tasks == 2:
        assert max(excesses) < 1e-6
    else:
        assert excesses[0] > 1e-6
        assert excesses == sorted(excesses)
        assert excesses[-1] > 20 * excesses[0]
