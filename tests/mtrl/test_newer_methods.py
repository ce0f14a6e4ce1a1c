"""ConicGrad, DB-MTL, SDMGrad, MoDo and GradVac by parameter: each against its formula, written again on vectors."""

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

import mtrl
from mtrl import make_aggregator
from mtrl.solvers import project_on_simplex
from mtrl.testing import SIZES, matrix
from tests.answers import answer, close, every_family, rows

torch.set_num_threads(1)


# ---- ConicGrad


@every_family
def test_conicgrad_begins_with_the_mean_and_keeps_its_length_and_its_cone(family) -> None:
    for seed, size in enumerate(SIZES):
        jacobian, method = matrix(family, *size, seed=seed), make_aggregator("conicgrad", c=0.6, rate=2.0)
        mean = jacobian.mean(0)
        close(answer(method, jacobian), mean)
        for _ in range(5):
            update = answer(method, jacobian)
            if mean.norm() > 1e-6 * jacobian.norm():
                close(update.norm(), mean.norm(), 1e-6)
                assert update @ mean >= (0.6 - 1e-6) * mean.norm().square()
        close(answer(make_aggregator("conicgrad", c=1.0, rate=2.0), jacobian), mean, 1e-6)


def test_conicgrad_turns_as_far_as_the_weighted_gradient_or_the_cone_allow() -> None:
    """In the plane of the mean and the weighted gradient, by angles."""
    jacobian = rows([1, 0.2, 0], [-0.4, 1, 0.5], [0.3, 0.1, 1])
    mean, weights = jacobian.mean(0), torch.tensor([0.05, 0.9, 0.05], dtype=torch.float64)
    weighted = weights @ jacobian
    angle = torch.arccos(mean @ weighted / mean.norm() / weighted.norm())
    side = weighted - (weighted @ mean) / (mean @ mean) * mean
    for c in (0.05, 0.9):
        turned = angle.clamp(max=math.acos(c))
        expected = turned.cos() * mean + turned.sin() * mean.norm() * side / side.norm()
        close(make_aggregator("conicgrad", c=c).in_cone(jacobian @ jacobian.T, weights) @ jacobian, expected)


def test_conicgrad_arrives_at_the_best_worst_gain_in_the_cone() -> None:
    jacobian, method = rows([3, 0], [-0.5, 1], [0.2, 0.6]), make_aggregator("conicgrad", c=0.5, rate=0.02)
    for _ in range(1500):
        update = answer(method, jacobian)
    mean = jacobian.mean(0)
    angles = torch.atan2(mean[1], mean[0]) + torch.linspace(-1, 1, 2001, dtype=torch.float64) * math.acos(0.5)
    best = (jacobian @ torch.stack([angles.cos(), angles.sin()]) * mean.norm()).amin(0).amax()
    assert (jacobian @ mean).amin() < 0.7 * best
    assert (jacobian @ update).amin() >= 0.97 * best


def test_conicgrad_without_a_side_to_turn_to_is_the_mean() -> None:
    method = make_aggregator("conicgrad", rate=3.0)
    for _ in range(3):  # weights on the second task point against the mean
        close(answer(method, rows([3, 0], [-1, 0])), rows([1, 0])[0])
    assert answer(make_aggregator("conicgrad"), rows([1, 0], [-1, 0])).abs().max() == 0


# ---- DB-MTL


def balanced_sums(jacobians: list[Tensor], losses: list[Tensor], beta: float, decay: float) -> list[Tensor]:
    """Lin et al. 2023, Algorithm 1, task by task."""
    averages, sums = torch.zeros_like(jacobians[0]), []
    for step, (jacobian, values) in enumerate(zip(jacobians, losses, strict=True), 1):
        share = beta / step**decay
        averages = torch.stack(
            [share * m + (1 - share) * g / loss for m, g, loss in zip(averages, jacobian, values, strict=True)]
        )
        lengths = averages.norm(dim=1)
        each = [lengths.max() / n * m for n, m in zip(lengths, averages, strict=True) if n > 0]
        sums.append(torch.stack([torch.zeros_like(jacobian[0]), *each]).sum(0))
    return sums


@pytest.mark.parametrize("family", ["random", "conflicting", "uneven", "one zero row"])
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_db_mtl_is_the_paper_s(family, num_tasks) -> None:
    jacobians = [matrix(family, num_tasks, 9, seed=seed) for seed in range(4)]
    losses = [torch.rand(num_tasks, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(4)]
    paper, ours = (make_aggregator("db_mtl", reduction="sum", beta=0.8, decay=0.3, rescale=r) for r in (False, True))
    for jacobian, values, expected in zip(jacobians, losses, balanced_sums(jacobians, losses, 0.8, 0.3), strict=True):
        close(answer(paper, jacobian, values), expected, 1e-5)  # averages are kept in float32
        update = answer(ours, jacobian, values)
        close(update, expected * jacobian.sum(0).norm() / expected.norm().clamp(min=1e-9), 1e-5)


def test_db_mtl_takes_no_negative_loss_and_a_loss_of_0() -> None:
    method, jacobian = make_aggregator("db_mtl"), rows([2, 0], [0, 1])
    assert answer(method, jacobian, torch.tensor([1.0, -1.0])).isnan().all()
    assert method.updates == 0
    found = answer(method, jacobian, torch.tensor([0.0, 1.0]))
    close(found / found.norm(), rows([1, 1])[0] / 2**0.5, 1e-5)


# ---- two batches: SDMGrad, MoDo


def test_projection_on_the_simplex_is_the_nearest_point() -> None:
    """KKT: what the point lost is the same wherever something is left, and no more elsewhere."""
    for seed in range(20):
        point = 3 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = project_on_simplex(point)
        assert abs(found.sum() - 1) < 1e-12
        assert found.min() >= 0
        lost = (point - found)[found > 0]
        assert lost.max() - lost.min() < 1e-12
        assert (point[found == 0] <= lost.max() + 1e-12).all()


def noisy(num_tasks: int, num_params: int, seed: int) -> Tensor:
    """Rows 2i and 2i + 1: a task's gradient on two batches."""
    noise = torch.randn(2 * num_tasks, num_params, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return matrix("conflicting", num_tasks, num_params, seed).repeat_interleave(2, 0) + 0.3 * noise


def of_two_batches(name: str, **options):
    method = make_aggregator(name, **options)
    method.batches = 2
    return method


def mean_length2(first: Tensor, second: Tensor) -> Tensor:
    return (first.norm(dim=1) * second.norm(dim=1)).sqrt().mean().square()


@pytest.mark.skipif(not find_spec("torchjd"), reason="needs TorchJD")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("num_tasks", [1, 2, 10, 50])
@pytest.mark.parametrize("name", ["sdmgrad", "modo"])
def test_two_batches_against_torchjd_over_some_updates(name, num_tasks, reduction) -> None:
    """TorchJD's steps are in units of the products, or of their diagonal, here of the gradients' lengths."""
    from torchjd.aggregation import MoDoWeighting, SDMGradWeighting

    ours = of_two_batches(name, reduction=reduction)
    theirs = SDMGradWeighting(lr=1.0) if name == "sdmgrad" else MoDoWeighting()
    for seed in range(3):
        jacobian = noisy(num_tasks, 60, seed)
        first, second = jacobian[::2], jacobian[1::2]
        products = first @ second.T
        size2 = mean_length2(first, second)
        if name == "sdmgrad":
            theirs.lr = float(10.0 * (products.diagonal().clamp(min=0).sqrt().mean().square() + 1e-8) / size2)
        weights = theirs(products if name == "sdmgrad" else products / size2)
        expected = weights @ (first + second) / 2 * (num_tasks if reduction == "sum" else 1)
        close(answer(ours, jacobian), expected)


@pytest.mark.parametrize("name", ["sdmgrad", "modo"])
def test_products_of_two_batches_are_right_on_average_and_of_one_are_not(name) -> None:
    method, single = of_two_batches(name), make_aggregator(name)
    true = matrix("random", 3, 40, seed=1)
    sums = torch.zeros(2, 3, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        batches = [true + torch.randn(3, 40, generator=generator, dtype=torch.float64) for _ in range(2)]
        both = torch.stack(batches, 1).flatten(0, 1)
        sums[0] += method.products(both @ both.T) * mean_length2(*batches) / 400
        sums[1] += single.products(batches[0] @ batches[0].T) * mean_length2(batches[0], batches[0]) / 400
    two, one = (sums - true @ true.T).diagonal(dim1=1, dim2=2).mean(1)
    assert abs(two) < 2
    assert abs(one - 40) < 4  # the variance of the noise


def test_one_batch_without_pull_goes_to_mgda() -> None:
    jacobian = rows([2, 0, 1], [-1, 1, 0], [0, 2, 1])
    expected = answer(make_aggregator("mgda"), jacobian)
    close(answer(make_aggregator("sdmgrad", lambda_=0.0, rate=0.1, steps=3000), jacobian), expected, 1e-6)
    modo = make_aggregator("modo", rho=0.0)
    for _ in range(3000):
        update = answer(modo, jacobian)
    close(update, expected, 1e-6)


def test_steps_below_the_bound_of_momentum_arrive_and_those_of_the_authors_do_not() -> None:
    """Of a quadratic with eigenvalues up to L, heavy ball's steps converge below 2 (1 + momentum) / L (Polyak)."""
    jacobian = matrix("random", 5, 1000, seed=0)
    products = jacobian @ jacobian.T / jacobian.norm(dim=1).mean().square()
    bound = float(2 * (1 + 0.5) / torch.linalg.eigvalsh(products).amax())
    shortest = make_aggregator("mgda")(jacobian, torch.ones(5))
    for rate, arrives in ((0.5 * bound, True), (10.0, False)):
        method = make_aggregator("sdmgrad", lambda_=0.0, rate=rate)
        update = [method(jacobian, torch.ones(5)) for _ in range(10)][-1]
        assert bool((update - shortest).norm() < 1e-6 * shortest.norm()) == arrives


def linear(num_tasks: int, batches: int):
    """A layer, its heads, and losses of blocks (task, batch)."""
    torch.manual_seed(0)
    body, heads = nn.Linear(5, 4).double(), [nn.Linear(4, 1).double() for _ in range(num_tasks)]
    x = torch.randn(num_tasks * batches, 6, 5, dtype=torch.float64)
    with mtrl.record(body, num_tasks * batches) as tape:
        hidden = body(x.flatten(0, 1)).unflatten(0, (num_tasks * batches, 6))
    losses = [heads[block // batches](rows).square().mean() for block, rows in enumerate(hidden)]
    return body, [p for head in heads for p in head.parameters()], torch.stack(losses), tape


@pytest.mark.parametrize("route", ["blocks", "losses"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["sdmgrad", "smoothed:sdmgrad", "scheduled:sdmgrad"])
def test_backward_of_two_batches(name, reduction, route) -> None:
    """Heads get the plain mean over tasks and batches, the layer the combination; tasks are measured as such."""
    options = {"start": 5} if "scheduled" in name else {}
    body, heads, losses, tape = linear(3, 2)
    expected = torch.autograd.grad(
        losses.view(3, 2).mean(1).mean() * (3 if reduction == "sum" else 1), heads, retain_graph=True
    )
    jacobian = mtrl.per_task_gradients(losses, body.parameters())
    twin, method = (of_two_batches(name, reduction=reduction, **options) for _ in range(2))
    where = {"tape": tape} if route == "blocks" else {"parameters": body.parameters()}
    found = mtrl.backward(losses, method, task_parameters=heads, diagnostics=True, **where)
    update = torch.cat([p.grad.flatten() for p in body.parameters()])
    close(update, answer(twin, jacobian))
    if options:  # the mean, until the start
        close(update, jacobian.mean(0) * (3 if reduction == "sum" else 1))
    assert all(torch.allclose(p.grad, g) for p, g in zip(heads, expected, strict=True))
    of_tasks = jacobian.view(3, 2, -1).mean(1)
    torch.testing.assert_close(found["norms"], of_tasks.norm(dim=1))
    plain = jacobian.mean(0) * (3 if reduction == "sum" else 1)
    torch.testing.assert_close(found["distance"], (update - plain).norm() / plain.norm(), atol=1e-7, rtol=1e-6)


def test_an_odd_number_of_losses_for_two_batches_is_refused() -> None:
    body, _, losses, _ = linear(3, 1)
    with pytest.raises(ValueError, match=r"expected 2 losses per task, .* found 3 losses in all"):
        mtrl.backward(losses, of_two_batches("modo"), parameters=body.parameters())
    method = of_two_batches("modo")
    method.reset(3, 24)
    with pytest.raises(ValueError, match="was reset for 3 tasks and found 2"):
        answer(method, noisy(2, 24, 0))


# ---- GradVac, parameter by parameter


class Net(nn.Module):
    """Layers with one parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2, bias=False)
        self.idle = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize("name", ["gradvac", "smoothed:gradvac", "scheduled:smoothed:gradvac"])
def test_each_parameter_is_turned_by_itself_with_targets_of_its_own(name) -> None:
    """As one GradVac for each, with the same orders; also for what a saved one remembers."""
    torch.manual_seed(1)
    net, x = Net().double(), torch.randn(3, 8, 4, dtype=torch.float64)
    options = {"target": 0.3, "beta": 0.2, "seed": 4}
    method, apart = (
        make_aggregator(name, per_parameter=True, **options),
        [make_aggregator(name, **options) for _ in range(4)],
    )
    method.reset(3, 38)
    for step in range(3):
        if step == 2:
            restored = make_aggregator(name, per_parameter=True, **options)
            restored.reset(3, 38)
            restored.load_state_dict(method.state_dict())
            method = restored
        losses = torch.stack([(net(rows) - task).square().mean() for task, rows in enumerate(x)])
        jacobian = mtrl.per_task_gradients(losses, net.parameters())
        found = mtrl.backward(losses, method, parameters=net.parameters(), diagnostics=True)
        pieces = jacobian.split([p.numel() for p in net.parameters()], dim=1)
        expected = [answer(own, piece) for own, piece in zip(apart, pieces, strict=True)]
        for parameter, update in zip(net.parameters(), expected, strict=True):
            gradient = torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
            torch.testing.assert_close(gradient, update.to(gradient.dtype), rtol=1e-7, atol=1e-12)
        whole, mean = torch.cat(expected), jacobian.mean(0)
        torch.testing.assert_close(found["distance"], (whole - mean).norm() / mean.norm())
        torch.testing.assert_close(found["norms"], jacobian.norm(dim=1))


def test_another_number_of_parameters_is_refused() -> None:
    method, net = make_aggregator("gradvac", per_parameter=True), Net()
    losses = torch.stack([net(torch.randn(8, 4)).square().mean() for _ in range(3)])
    mtrl.backward(losses, method, parameters=net.parameters())
    with pytest.raises(ValueError, match=r"has targets for 4 parameters and found 1: .* Call reset"):
        answer(method, matrix("random", 3, 9, 0))


def test_of_a_jacobian_in_one_piece_the_whole_is_compared() -> None:
    jacobian = matrix("conflicting", 4, 9, seed=0)
    close(
        answer(make_aggregator("gradvac", per_parameter=True), jacobian), answer(make_aggregator("gradvac"), jacobian)
    )
