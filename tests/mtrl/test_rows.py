"""Half and mixed precision, and gradients near the limits of float32: the answers are those of ordinary numbers."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

import mtrl
from mtrl import AGGREGATORS, make_aggregator
from mtrl.rows import Rows
from mtrl.testing import matrix
from tests.helpers import NoSynchronisation

torch.set_num_threads(1)

every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)
SIZES = [2.0**-126, 2.0**-73, 2.0**67, 2.0**100]  # exact in float32
TORCHJD = ["Mean", "UPGrad", "AlignedMTL", "GradVac"]
WITH_TORCHJD = [*AGGREGATORS, *(f"torchjd:{name}" for name in TORCHJD if find_spec("torchjd"))]


def conflicting(num_tasks: int = 3, num_params: int = 40) -> Tensor:
    return matrix("conflicting", num_tasks, num_params, seed=3)


def walk(name: str, jacobians: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Some updates of one method: what it remembers counts, too."""
    method, updates = make_aggregator(name), []
    for jacobian in jacobians:
        updates.append(method(jacobian.to(dtype), torch.ones(len(jacobian), dtype=dtype)))
        method.after_step(torch.ones(len(jacobian), dtype=dtype))
    return updates


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.isfinite().all()
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


# ---- half precision: rounded once on the way in and once on the way out


@pytest.mark.parametrize("name", WITH_TORCHJD)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 300.0), (torch.float16, 1e-3), (torch.bfloat16, 1.0)])
def test_half_precision_is_computed_in_float32(dtype, size, name) -> None:
    """300 in float16: the squares overflow."""
    jacobians = [(size * matrix("random", 3, 200, seed=seed)).to(dtype) for seed in range(2)]
    found = walk(name, jacobians, dtype)
    assert all(update.dtype == dtype for update in found)
    rounding = torch.finfo(dtype).eps / 2
    assert_near(found, walk(name, [j.double() for j in jacobians], torch.float64), 1.2 * rounding + 1e-4)


# ---- far from 1: powers of two are exact, so the answers are those of ordinary gradients to float32's rounding


@every_aggregator
@pytest.mark.parametrize("size", SIZES)
def test_very_long_and_very_short_gradients(size, name) -> None:
    jacobians = [matrix("random", 3, 40, seed=seed).float() for seed in range(3)]
    found = walk(name, [size * j for j in jacobians], torch.float32)
    expected = [size * update for update in walk(name, [j.double() for j in jacobians], torch.float64)]
    rounding = 1e-4 if name == "sdmgrad" else 1e-6  # its 20 steps of size 10 make rounding a hundred times as large
    assert_near(found, expected, rounding + 1e-45 / size)


@pytest.mark.parametrize("name", [name for name in WITH_TORCHJD if ":" in name])
@pytest.mark.parametrize("size", [2.0**-80, 2.0**70])
def test_torchjd_is_asked_in_float64_there(size, name) -> None:
    jacobian = (size * conflicting()).float()
    assert_near(walk(name, [jacobian], torch.float32), walk(name, [jacobian.double()], torch.float64), 1e-5)


@every_aggregator
def test_gradients_of_very_different_length(name) -> None:
    jacobian = matrix("random", 3, 40).float() * torch.tensor([[2.0**-90], [1.0], [2.0**80]])
    assert_near(walk(name, [jacobian], torch.float32), walk(name, [jacobian.double()], torch.float64), 1e-5)


def test_the_gramian_of_pieces_is_that_of_the_whole() -> None:
    whole = conflicting(4, 30) * 2.0**100
    for dtypes in ([torch.float32] * 3, [torch.float32, torch.bfloat16, torch.float64]):
        parts = [p.reshape(4, -1, 5).to(d) for p, d in zip(whole.split([0, 10, 20], dim=1), dtypes, strict=True)]
        exact = torch.cat([part.double().flatten(1) for part in parts], 1)
        gramian, rows = Rows(parts, scale=4.0).measured()
        torch.testing.assert_close(gramian, 16 * exact @ exact.T, rtol=1e-6, atol=0)
        weights = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
        update = torch.cat([piece.double().flatten() for piece in rows.combine(weights)])
        torch.testing.assert_close(update, 4 * weights @ exact, rtol=1e-5, atol=1e-6 * float(exact.norm()))


def test_ordinary_gradients_are_multiplied_once_and_not_copied(monkeypatch) -> None:
    monkeypatch.setattr(Rows, "_resized", lambda rows: pytest.fail("resized"))
    for size in (1e-10, 1.0, 1e10):
        jacobian = size * conflicting().float()
        _, rows = Rows([jacobian]).measured()
        assert rows.pieces[0] is jacobian


@pytest.mark.parametrize("size", [1.0, 1e30])
def test_looking_at_lengths_waits_for_nothing(size) -> None:
    jacobian = size * conflicting().float()
    with NoSynchronisation():
        Rows([jacobian]).measured()


# ---- the same through backward


def body_and_head(dtypes: tuple[torch.dtype, torch.dtype], num_tasks: int) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(5, 8).to(dtypes[0]), nn.Linear(8, num_tasks).to(dtypes[1])])


def losses_of(net: nn.ModuleList, tape_tasks: int | None = None) -> Tensor:
    x = torch.linspace(-1, 1, 60).reshape(12, 5).sin()
    hidden = net[0](x.to(net[0].weight.dtype)).tanh()
    outputs = net[1](hidden.to(net[1].weight.dtype)).float()
    goals = torch.tensor([3.0, -3.0, 1.0])
    if tape_tasks:
        return (outputs.reshape(3, -1) - goals[:, None]).square().mean(1)
    return (outputs - goals).square().mean(0)


MIXED = [
    (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float64, torch.float32),
    (torch.float16, torch.float16),
]  # fmt: skip


@pytest.mark.parametrize("route", ["losses", "blocks"])
@pytest.mark.parametrize("dtypes", MIXED, ids=str)
def test_each_gradient_comes_in_its_parameters_precision(dtypes, route) -> None:
    for name in WITH_TORCHJD:
        plain, net = (body_and_head(d, 3 if route == "losses" else 1) for d in ((torch.float32,) * 2, dtypes))
        for each in (plain, net):
            method = make_aggregator(name)
            for accumulate in (False, True):
                if route == "blocks":
                    with mtrl.record(each, 3) as tape:
                        losses = losses_of(each, 3)
                    mtrl.backward(losses, method, tape=tape, accumulate=accumulate)
                else:
                    mtrl.backward(losses_of(each), method, parameters=each.parameters(), accumulate=accumulate)
        assert all(p.grad.dtype == p.dtype for p in net.parameters()), name
        found, expected = (torch.cat([p.grad.double().flatten() for p in each.parameters()]) for each in (net, plain))
        rounding = 0.2 if name == "sdmgrad" else 0.05  # see above
        assert (found - expected).norm() <= rounding * expected.norm(), name


@pytest.mark.parametrize("name", [name for name in AGGREGATORS if not make_aggregator(name).non_negative])
@pytest.mark.parametrize("size", [2.0**-70, 2.0**70])
@pytest.mark.parametrize("route", ["losses", "blocks"])
def test_backward_with_very_large_and_very_small_losses(route, size, name) -> None:
    """Weights of 1 and losses that are linear in them, some negative: the gradients are as large as the losses."""
    found = []
    for scale, dtype in ((size, torch.float32), (size, torch.float64)):
        layer = nn.Linear(5, 1, bias=False, dtype=dtype)
        nn.init.ones_(layer.weight)
        x = conflicting(3, 20).reshape(12, 5).float().to(dtype)
        with mtrl.record(layer, 3) as tape:
            losses = scale * layer(x).reshape(3, -1).mean(1)
        where = {"tape": tape} if route == "blocks" else {"parameters": layer.parameters()}
        report = mtrl.backward(losses, make_aggregator(name), diagnostics=True, **where)
        found.append((layer.weight.grad[0], report))
    assert_near([found[0][0]], [found[1][0]], 1e-5)
    for key in found[1][1]:
        torch.testing.assert_close(found[0][1][key].double(), found[1][1][key].double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mean", "pcgrad", "mocograd", "nash_mtl", "gradnorm", "famo"])
def test_float16_with_a_grad_scaler(name) -> None:
    """It skips the steps whose gradients overflow; they leave nothing behind, and then the losses fall."""
    torch.manual_seed(0)
    net, method = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1)), make_aggregator(name)
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.05), torch.amp.GradScaler("cpu", init_scale=2.0**24)
    x, scales = torch.randn(12, 5), []
    y = x[:, :1].sin().reshape(3, -1)
    for _ in range(60):
        with torch.autocast("cpu", torch.float16), mtrl.record(net, 3) as tape:
            outputs = net(x)
        losses = (outputs.float().reshape(3, -1) - y).square().mean(1)
        mtrl.backward(scaler.scale(losses), method, tape=tape)
        scaler.step(optimizer)
        scaler.update()
        method.after_step(losses)
        scales.append(scaler.get_scale())
    assert scales[0] < 2.0**24  # the first step overflowed
    assert scales[-1] == scales[-20]
    assert losses.mean() < 0.1
