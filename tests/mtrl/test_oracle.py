"""Our methods against TorchJD's, an independent implementation with general solvers."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from mtrl.aggregators import (
    IMTLG,
    MGDA,
    Aggregator,
    AlignedMTL,
    CAGrad,
    ConFIG,
    FairGrad,
    GradDrop,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
    make_aggregator,
)
from mtrl.testing import matrix

jd = pytest.importorskip("torchjd.aggregation", reason="needs TorchJD: pip install -c constraints.txt -e '.[dev]'")
torch.set_num_threads(1)

SIZES = [(2, 8), (3, 20), (10, 60), (50, 300)]
TALL = ("random", "aligned", "conflicting")  # of full rank at these sizes
every_size = pytest.mark.parametrize(("num_tasks", "num_params"), SIZES)


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"TorchJD's solver needs {', '.join(missing)}")


def answer(aggregator: Aggregator, jacobian: Tensor) -> Tensor:
    return aggregator(jacobian, torch.ones(len(jacobian)))


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm() + 1e-12, (found, expected)


def give_orders(monkeypatch: pytest.MonkeyPatch, orders: list[list[int]], with_self: bool) -> None:
    """Let torch.randperm deal our visiting orders, in the form that the method asks for."""
    if with_self:
        deals = iter([[*order, i] for i, order in enumerate(orders)])
    else:
        deals = iter([[j - (j > i) for j in order] for i, order in enumerate(orders)])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor(next(deals)))


@every_size
@pytest.mark.parametrize("family", [*TALL, "uneven", "one zero row"])
def test_pcgrad_with_the_same_orders(family, num_tasks, num_params, monkeypatch) -> None:
    jacobian = matrix(family, num_tasks, num_params, seed=1)
    orders = PCGrad(seed=7).draw_orders(num_tasks).tolist()
    found = answer(PCGrad("sum", seed=7), jacobian)
    give_orders(monkeypatch, orders, with_self=True)
    if family == "one zero row":  # TorchJD divides 0 by 0 only where it would project, and never does
        assert found.isfinite().all()
    close(found, jd.PCGrad()(jacobian), 1e-8)


@every_size
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gradvac_with_the_same_orders_over_some_steps(beta, num_tasks, num_params, monkeypatch) -> None:
    ours, theirs = GradVac("sum", beta=beta, seed=7), jd.GradVac(beta=beta, eps=0.0)
    drawn = PCGrad(seed=7)
    for step in range(3):
        jacobian = matrix("conflicting", num_tasks, num_params, seed=step)
        found = answer(ours, jacobian)
        with monkeypatch.context() as patch:
            give_orders(patch, drawn.draw_orders(num_tasks).tolist(), with_self=False)
            close(found, theirs(jacobian), 1e-7)


@every_size
@pytest.mark.parametrize("family", [*TALL, "duplicates"])
def test_imtl_g(family, num_tasks, num_params) -> None:
    jacobian = matrix(family, num_tasks, num_params, seed=2)
    close(answer(IMTLG(), jacobian), jd.IMTLG()(jacobian), 1e-8)


@needs("cvxpy", "clarabel")
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@every_size
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_cagrad(c, num_tasks, num_params, monkeypatch) -> None:
    """TorchJD's solver stops at a gap of 1e-8, which leaves 5e-4 in the direction: here it is asked for more."""
    cvxpy = pytest.importorskip("cvxpy")
    exact = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
    solve = cvxpy.Problem.solve
    monkeypatch.setattr(cvxpy.Problem, "solve", lambda problem, solver: solve(problem, solver, **exact))
    for family in TALL:
        jacobian = matrix(family, num_tasks, num_params, seed=3)
        expected = jd.CAGrad(c=c, norm_eps=1e-12)(jacobian)
        found = answer(CAGrad(c=c, rescale=False), jacobian)
        close(found, expected, 1e-4)
        assert (jacobian @ found).amin() >= (jacobian @ expected).amin() - 1e-7


@every_size
@pytest.mark.parametrize("family", [*TALL, "uneven", "low rank", "opposite", "one zero row"])
def test_mgda_is_never_above(family, num_tasks, num_params) -> None:
    jacobian = matrix(family, num_tasks, num_params, seed=4)
    ours, theirs = answer(MGDA(), jacobian), jd.MGDA(epsilon=1e-12, max_iters=500)(jacobian)
    assert ours.square().sum() <= theirs.square().sum() * (1 + 1e-9) + 1e-9 * jacobian.square().sum(1).amax()


@needs("cvxpy", "ecos")
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
@every_size
def test_nash_mtl_by_direction(num_tasks, num_params) -> None:
    for family in ("random", "aligned"):
        jacobian = matrix(family, num_tasks, num_params, seed=5)
        theirs = jd.NashMTL(n_tasks=num_tasks, optim_niter=100)(jacobian)
        ours = answer(NashMTL(), jacobian)
        assert (ours / ours.norm() - theirs / theirs.norm()).norm() < 1e-2
        close(ours.norm(), jacobian.mean(0).norm(), 1e-9)


@every_size
@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_mtl(scale, num_tasks, num_params) -> None:
    for family in (*TALL, "duplicates"):  # eigenvalues of "uneven" lie below the rounding of float32
        jacobian = matrix(family, num_tasks, num_params, seed=6)
        close(answer(AlignedMTL(scale=scale), jacobian), jd.AlignedMTL(scale_mode=scale)(jacobian), 1e-5)


@every_size
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fairgrad(alpha, num_tasks, num_params) -> None:
    """Scipy's least squares stops at 1e-8 of the residuals, which leaves some of the solution."""
    pytest.importorskip("scipy")
    for family in TALL:
        jacobian = matrix(family, num_tasks, num_params, seed=7)
        found = answer(FairGrad("sum", alpha=alpha, rescale=False), jacobian)
        close(found / num_tasks, jd.FairGrad(alpha=alpha)(jacobian), 1e-3)


@needs("quadprog")
@every_size
@pytest.mark.parametrize("family", [*TALL, "one zero row"])  # on uneven lengths its ridge shows
def test_upgrad(family, num_tasks, num_params) -> None:
    from torchjd.linalg import QuadprogProjector

    jacobian = matrix(family, num_tasks, num_params, seed=8)
    theirs = jd.UPGrad(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-13))(jacobian)
    close(answer(UPGrad(), jacobian), theirs, 1e-6)


@every_size
@pytest.mark.parametrize("family", [*TALL, "uneven", "one zero row", "opposite"])
def test_config(family, num_tasks, num_params) -> None:
    jacobian = matrix(family, num_tasks, num_params, seed=9)
    close(answer(ConFIG("sum"), jacobian), jd.ConFIG()(jacobian), 1e-8)


@every_size
def test_graddrop_with_the_same_draws(num_tasks, num_params) -> None:
    jacobian = matrix("conflicting", num_tasks, num_params, seed=10).float()
    found = answer(GradDrop("sum", leak=0.25, seed=7), jacobian)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        close(found, jd.GradDrop(leak=torch.full((num_tasks,), 0.25))(jacobian), 1e-6)


def test_smoothed_weights_over_some_steps() -> None:
    ours = make_aggregator("smoothed:aligned_mtl", smoothing=0.7)
    theirs = jd.GramianWeightedAggregator(jd.CRMOGMWeighting(jd.AlignedMTLWeighting(), alpha=0.7))
    for step in range(4):
        jacobian = matrix("conflicting", 5, 20, seed=step)
        close(answer(ours, jacobian), theirs(jacobian), 1e-8)
