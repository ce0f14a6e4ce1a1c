"""What a tape cannot see is refused where the graph shows it, and found by `check_tape` where it does not."""

import warnings
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mtrl
from mtrl.graph import graph_of
from mtrl.testing import check_tape
from tests.helpers import toy_agent

torch.set_num_threads(1)

T, B = 3, 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 1)).double()


def batch() -> Tensor:
    return torch.randn(T * B, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def per_task(outputs: Tensor) -> Tensor:
    return (outputs - 1).square().reshape(T, -1).mean(1)


# ---- a parameter's uses outside of its layer's recorded calls


def gradient_penalty(net: nn.Sequential) -> Tensor:
    x = batch().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return slope.square().reshape(T, -1).mean(1)


BYPASSES = {
    "weight penalty": lambda net: per_task(net(batch())) + net[0].weight.square().sum(),
    "penalty of one task": lambda net: per_task(net(batch())) + torch.eye(T)[0] * net[0].weight.square().sum(),
    "gradient penalty": lambda net: per_task(net(batch())) + gradient_penalty(net),
    "functional use": lambda net: per_task(net(batch()) + F.linear(batch(), net[0].weight).mean()),
    "forward": lambda net: per_task(net(batch())) + per_task(net[0].forward(batch())),
    "into a layer": lambda net: per_task(net[3](net[:3](batch()) + net[0].weight.sum())),
    "into its own layer": lambda net: per_task(net(net[0](batch()) @ net[0].weight)),
    "into a layer before it": lambda net: per_task(net(batch() * net[3].weight.mean())),
}


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad", "mocograd"])
@pytest.mark.parametrize("use", BYPASSES)
def test_a_use_past_the_recorded_calls_is_refused(use, aggregator) -> None:
    """By every method alike, or the mean and PCGrad would minimise different things."""
    net = network()
    with mtrl.record(net, T) as tape:
        losses = BYPASSES[use](net)
    with pytest.raises(ValueError, match=r"'\d\.weight' also past the recorded calls.*parameters=\.\.\."):
        mtrl.backward(losses, mtrl.make_aggregator(aggregator), tape=tape)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_call_before_the_recording_is_refused() -> None:
    net = network()
    before = per_task(net(batch()))
    with mtrl.record(net, T) as tape:
        losses = before + per_task(net(batch()))
    with pytest.raises(ValueError, match="past the recorded calls"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)


class Outer(nn.Module):
    """A layer with a rule, within which another one is called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(5, dtype=torch.float64)), nn.Linear(5, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale) * 2

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        return {"scale": (2 * grad_output * self.inner.weight * inputs).reshape(num_tasks, -1, 5).sum(1)}


def autocast_twice(net: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):  # keeps one copy of the weights for both calls
        return per_task((net(batch().float()) + net(batch().float() + 1)).float())


def hidden_again(net: nn.Sequential) -> Tensor:
    return per_task(net[3](net[:3](batch()) + net[:3](batch() + 1)))


SEEN = {
    "twice": (network, hidden_again),
    "within another": (lambda: nn.Sequential(Outer()), lambda net: per_task(net(batch()))),
    "autocast": (lambda: network().float(), autocast_twice),
    "checkpoint": (network, lambda net: per_task(net[3](checkpoint(net[:3], batch(), use_reentrant=False)))),
    "losses are the output": (lambda: nn.Linear(5, T).double(), lambda net: per_task(net(batch()))),
}


@pytest.mark.parametrize("inside", [False, True], ids=["after", "within the block"])
@pytest.mark.parametrize("case", SEEN)
def test_what_a_tape_sees_it_sees_whole(case, inside) -> None:
    build, losses_of = SEEN[case]
    net, oracle = build(), build()
    oracle.load_state_dict(net.state_dict())
    with mtrl.record(net, T) as tape:
        losses = losses_of(net)
        if inside:  # a checkpoint computes its layers again then
            mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    if not inside:
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    mtrl.backward(losses_of(oracle), mtrl.PCGrad(), parameters=oracle.parameters())
    for ours, theirs in zip(net.parameters(), oracle.parameters(), strict=True):
        rtol, atol = (1e-10, 1e-13) if ours.dtype == torch.float64 else (0.05, 0.01)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=rtol, atol=atol)


def put_another(net: nn.Sequential) -> Tensor:
    net[0].weight = nn.Parameter(2 * net[0].weight.detach())
    return per_task(net(batch()))


REPLACED = {
    "functional call": lambda net: per_task(
        torch.func.functional_call(net, {name: 2 * p for name, p in net.named_parameters()}, (batch(),))
    ),
    "another parameter": put_another,
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_tensor_in_the_place_of_a_parameter_is_refused(case) -> None:
    """The layer's rule yields the gradient of that tensor, not the parameter's."""
    net = network()
    with pytest.raises(ValueError, match=r"layer '0' .* took the place of its weight"), mtrl.record(net, T):
        REPLACED[case](net)
    with mtrl.record(net, T):
        torch.func.functional_call(net, dict(net.named_parameters()), (batch(),))


def test_a_hook_on_a_shared_parameter_is_refused() -> None:
    """An ordinary backward pass obeys it, and so does the other route."""
    net = network()
    net[3].weight.register_hook(lambda gradient: 0 * gradient)
    with mtrl.record(net, T) as tape:
        losses = per_task(net(batch()))
    with pytest.raises(ValueError, match=r"'3\.weight' has a hook"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    mtrl.backward(losses, mtrl.PCGrad(), parameters=net.parameters())
    assert net[3].weight.grad.eq(0).all()


# ---- layers that mix the rows of the batch


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def own_statistics() -> nn.Module:
    return nn.BatchNorm1d(7, affine=False, track_running_stats=False).eval()  # of the batch, in eval mode too


MIXING = {
    "trained": lambda: nn.BatchNorm1d(7),
    "frozen": lambda: frozen(nn.BatchNorm1d(7)),
    "without parameters": lambda: nn.BatchNorm1d(7, affine=False),
    "without statistics, eval": own_statistics,
    "synchronised": lambda: frozen(nn.SyncBatchNorm(7)),
    "lazy": lambda: nn.LazyBatchNorm1d(affine=False),
    "images": lambda: nn.BatchNorm2d(7, affine=False),
    "volumes": lambda: nn.BatchNorm3d(7, affine=False),
    "converted": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(frozen(nn.BatchNorm1d(7))),
}


@pytest.mark.parametrize("kind", MIXING)
def test_batch_statistics_are_refused_by_name(kind) -> None:
    net = nn.ModuleDict({"first": nn.Linear(5, 7), "norm": MIXING[kind]()})
    with pytest.raises(TypeError, match=r"'norm' \(\w*BatchNorm\w*\) mixes the rows.*eval mode"), mtrl.record(net, T):
        pass


@pytest.mark.parametrize(
    "norm",
    [
        lambda: frozen(nn.BatchNorm1d(7)).eval(),
        lambda: nn.BatchNorm1d(7, affine=False).eval(),
        lambda: frozen(nn.GroupNorm(7, 7)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 7)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()),
    ],
    ids=["frozen, eval", "eval", "groups", "instances"],
)
def test_norms_of_single_rows_are_taken(norm) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), norm(), nn.Linear(7, 1)).double()
    check_tape(net, T, lambda: per_task(net(batch())))


def test_a_tasks_own_batch_norm_sees_rows_of_that_task_alone() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(5, 7)
            self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 1)) for _ in range(T))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([head(rows) for head, rows in zip(self.heads, self.body(x).chunk(T), strict=True)])

    torch.manual_seed(0)
    net = Heads().double()
    check_tape(net, T, lambda: per_task(net(batch())), net.heads.parameters())


# ---- what no graph shows


def rows_mixed(net: nn.Sequential, x: Tensor) -> Tensor:
    hidden = net[0](x)
    return per_task(net[1:](hidden - hidden.mean(0)))


def anothers_loss(net: nn.Sequential, x: Tensor) -> Tensor:
    losses = per_task(net(x))
    return losses + 0.1 * losses.roll(1)


def over_the_largest(net: nn.Sequential, x: Tensor) -> Tensor:
    losses = per_task(net(x))
    return losses / losses.amax()


UNSEEN = {
    "rows mixed": rows_mixed,
    "tasks in turn": lambda net, x: (net(x) - 1).square().reshape(B, T).mean(0),
    "sequence first": lambda net, x: (net(x[: T * T].reshape(T, T, 5)) - 1).square().mean((0, 2)),
    "other order": lambda net, x: per_task(net(x)).flip(0),
    "another's loss": anothers_loss,
    "over the largest": over_the_largest,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", UNSEEN)
def test_check_tape_finds_what_no_graph_shows(case, dtype) -> None:
    net = network().to(dtype)
    with pytest.raises(AssertionError, match=r"found others.*0\.weight of task \d: by .*mixed over the batch"):
        check_tape(net, T, lambda: UNSEEN[case](net, batch().to(dtype)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_check_tape_says_nothing_where_a_tape_is_right(dtype) -> None:
    net = network().insert(2, nn.Dropout(0.5)).to(dtype)
    before = [parameter.clone() for parameter in net.parameters()]
    check_tape(net, T, lambda: per_task(net(batch().to(dtype))))
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_check_tape_refuses_what_backward_refuses() -> None:
    net = network()
    with pytest.raises(ValueError, match="past the recorded calls"):
        check_tape(net, T, lambda: BYPASSES["weight penalty"](net))
    with pytest.raises(ValueError, match="expected one loss per task"):
        check_tape(net, T, lambda: per_task(net(batch()))[1:])


def test_a_trusted_tape_looks_at_no_graph_but_at_what_was_overwritten() -> None:
    net, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(6, 4)
    for trusted in (False, True):
        with mtrl.record(net, 2, trusted=trusted) as tape:
            losses = net(inputs).view(2, 3).square().mean(1)
        with mock.patch("mtrl.tape.graph_of", side_effect=graph_of) as look:
            mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
        assert bool(look.call_count) is not trusted
    with mtrl.record(net, 2, trusted=True) as tape:
        losses = net(inputs).view(2, 3).square().mean(1)
    inputs.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)


def test_an_agent_looks_at_its_first_update() -> None:
    agent = toy_agent(policy_delay=2)
    with mock.patch("mtrl.tape.graph_of", side_effect=graph_of) as look:
        agent.learn(2 * 40)
    assert agent._n_updates > 10
    assert look.call_count == 2  # the critic's and the actor's


@pytest.mark.parametrize("kind", [nn.DataParallel, nn.parallel.DistributedDataParallel])
def test_a_network_that_is_spread_over_devices_is_refused_by_name(kind) -> None:
    wrapper = kind.__new__(kind)  # its own set-up asks for a group of processes
    nn.Module.__init__(wrapper)
    wrapper.module = network()
    with pytest.raises(TypeError, match=rf"^{kind.__name__} spreads .*record its \.module"):
        mtrl.Tape(nn.Sequential(wrapper), T)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_that_no_process_shares_are_told(ranks, monkeypatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: ranks)
    net = network()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        mtrl.backward(per_task(net(batch())), mtrl.Mean(), parameters=net.parameters())
    assert [str(w.message)[:50] for w in found] == ["mtrl.backward leaves each of 2 processes its own ."] * (ranks - 1)


def test_what_is_no_module_is_told() -> None:
    with (
        pytest.raises(TypeError, match="expected a module to record, found a generator"),
        mtrl.record(nn.Linear(2, 1).parameters(), 2),
    ):
        pass


def test_parameters_that_are_used_up_are_told() -> None:
    net = nn.Linear(2, 1)
    parameters = net.parameters()
    mtrl.backward(net(torch.randn(3, 2)).mean(1), mtrl.PCGrad(), parameters=parameters)
    with pytest.raises(ValueError, match=r"used up after one call"):
        mtrl.backward(net(torch.randn(3, 2)).mean(1), mtrl.PCGrad(), parameters=parameters)
