"""The two routes agree, heads are left alone, and what a tape cannot hold is refused by name."""

import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import mtrl
from mtrl.aggregators import Aggregator
from tests.helpers import NoSynchronisation

torch.set_num_threads(1)

T, B, WIDTH = 4, 6, 8


class EnsembleLinear(nn.Module):
    """N linear layers side by side: (N, rows, in) -> (N, rows, out); offers its own rule."""

    def __init__(self, num: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num, inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(num, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        x = inputs.unflatten(1, (num_tasks, -1))
        dy = grad_output.unflatten(1, (num_tasks, -1))
        return {"weight": torch.einsum("ntbi,ntbo->tnio", x, dy), "bias": dy.sum(2).transpose(0, 1)[:, :, None]}


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = EnsembleLinear(2, 5, WIDTH), EnsembleLinear(2, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.expand(2, -1, -1)).tanh()).sum(0)


class Recurrent(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.again(self.again(self.enter(x)).tanh()).tanh())


class MultiHead(nn.Module):
    """A shared torso, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.torso = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(T))

    def forward(self, x: Tensor) -> Tensor:
        blocks = self.torso(x).chunk(T)
        return torch.cat([head(block) for head, block in zip(self.heads, blocks, strict=True)])


def mlp(inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.ReLU(inplace),
        nn.Linear(WIDTH, WIDTH, bias=False),
        nn.LayerNorm(WIDTH, elementwise_affine=False),
        nn.ReLU(inplace),
        nn.Linear(WIDTH, 1),
    )


NETWORKS = {"mlp": mlp, "inplace": lambda: mlp(True), "ensemble": Ensemble, "twice": Recurrent, "heads": MultiHead}


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().to(dtype)


def per_task_losses(network: nn.Module, dims: tuple[int, ...] = (), num_tasks: int = T) -> Tensor:
    """Squared errors whose targets have opposite signs for odd and even tasks: they conflict."""
    dtype = next(network.parameters()).dtype
    x = torch.randn(num_tasks * B, *dims, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    sign = torch.tensor([1.0, -1.0], dtype=dtype).repeat(num_tasks)[:num_tasks]
    predictions = network(x).reshape(num_tasks, -1)
    return (predictions - 3 * sign[:, None]).square().mean(1)


def heads_of(network: nn.Module) -> list[nn.Parameter]:
    return list(network.heads.parameters()) if isinstance(network, MultiHead) else []


def gradients(network: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def run(name: str, route: str, aggregator: Aggregator, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
    return passed_back(build(name, dtype), route, aggregator, **options)


def passed_back(network: nn.Module, route: str, aggregator: Aggregator, **options) -> nn.Module:
    heads = heads_of(network)
    if route == "blocks":
        with mtrl.record(network, T, heads) as tape:
            losses = per_task_losses(network)
        mtrl.backward(losses, aggregator, tape=tape, **options)
    else:
        shared = [p for p in network.parameters() if all(p is not head for head in heads)]
        mtrl.backward(per_task_losses(network), aggregator, parameters=shared, task_parameters=heads, **options)
    return network


class Sorted(Aggregator):
    """A method that needs the whole Jacobian: the coordinate-wise median."""

    def forward(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        return jacobian.sort(0).values[len(jacobian) // 2]


@pytest.mark.parametrize("aggregator", [mtrl.PCGrad, Sorted, mtrl.Mean], ids=lambda a: a.__name__)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_equals_losses(name, reduction, aggregator) -> None:
    blocks = gradients(run(name, "blocks", aggregator(reduction)))
    oracle = gradients(run(name, "losses", aggregator(reduction)))
    torch.testing.assert_close(blocks, oracle, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_equals_losses_in_single_precision(name) -> None:
    """Without PCGrad's thresholds in the way: the rows themselves."""
    network = build(name, torch.float32)
    with mtrl.record(network, T, heads_of(network)) as tape:
        losses = per_task_losses(network)
    oracle = mtrl.per_task_gradients(losses, tape.parameters)
    rows = tape.task_gradients(torch.autograd.grad(losses.sum(), tape.outputs))
    torch.testing.assert_close(torch.cat([row.flatten(1) for row in rows], 1), oracle, rtol=1e-4, atol=1e-5)


def test_rows_may_have_inner_dimensions() -> None:
    network, oracle = build("mlp"), build("mlp")
    with mtrl.record(network, T) as tape:
        losses = per_task_losses(network, dims=(3,))
    mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    mtrl.backward(per_task_losses(oracle, dims=(3,)), mtrl.PCGrad(), parameters=oracle.parameters())
    torch.testing.assert_close(gradients(network), gradients(oracle), rtol=1e-10, atol=1e-13)


def test_overwritten_view_is_refused() -> None:
    """A 3-D input makes a Linear's output a view, and an in-place ReLU then moves its place in the graph."""
    network = nn.Sequential(nn.Linear(5, 3), nn.ReLU(inplace=True))
    with mtrl.record(network, T) as tape:
        losses = network(torch.randn(T * B, 2, 5)).reshape(T, -1).mean(1)
    with pytest.raises(RuntimeError, match=r"'0' \(Linear\).*in place"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)


def test_overwritten_input_is_refused() -> None:
    network, x = nn.Linear(5, 1), torch.randn(T * B, 5)
    with mtrl.record(network, T) as tape:
        losses = network(x).reshape(T, -1).mean(1)
    x.zero_()
    with pytest.raises(RuntimeError, match=r"Linear.*in place|inplace"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)


# ---- heads and the mean: bit for bit what an ordinary backward gives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("route", ["blocks", "losses"])
@pytest.mark.parametrize("aggregator", [mtrl.PCGrad, Sorted, mtrl.Mean], ids=lambda a: a.__name__)
def test_heads_are_left_alone(aggregator, route, reduction, dtype) -> None:
    """Trap 1: heads that enter the projection come out scaled."""
    network, plain = run("heads", route, aggregator(reduction), dtype), build("heads", dtype)
    losses = per_task_losses(plain)
    getattr(losses, reduction)().backward()
    for head, expected in zip(heads_of(network), heads_of(plain), strict=True):
        assert torch.equal(head.grad, expected.grad)


def test_heads_may_be_named_late_twice_or_be_frozen() -> None:
    network, plain = build("heads"), build("heads")
    heads = heads_of(network)
    heads[0].requires_grad_(False)
    with mtrl.record(network.torso, T, heads[:4]) as tape:
        losses = per_task_losses(network)
    per_task_losses(plain).mean().backward()
    mtrl.backward(losses, mtrl.PCGrad(), tape=tape, task_parameters=[*heads, *heads])
    assert heads[0].grad is None
    for head, expected in zip(heads[1:], heads_of(plain)[1:], strict=True):
        assert torch.equal(head.grad, expected.grad)


@pytest.mark.parametrize("route", ["blocks", "losses"])
def test_a_parameter_that_is_frozen_on_the_way_keeps_no_gradient_of_before(route) -> None:
    """Else an optimizer would go on with it, as none is set to zero between."""
    network = run("heads", route, mtrl.PCGrad())
    frozen = [next(network.torso.parameters()), heads_of(network)[0]]
    for parameter in frozen:
        assert parameter.grad is not None
        parameter.requires_grad_(False)
    kept = [parameter.grad for parameter in frozen]
    passed_back(network, route, mtrl.PCGrad(), accumulate=True)
    assert all(parameter.grad is grad for parameter, grad in zip(frozen, kept, strict=True))
    passed_back(network, route, mtrl.PCGrad())
    assert all(parameter.grad is None for parameter in frozen)


def test_the_jacobian_of_the_losses_leaves_frozen_parameters_out() -> None:
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, T)), torch.randn(B, 3)
    every = mtrl.per_task_gradients(network(x).square().mean(0), network.parameters())
    network[0].requires_grad_(False)
    assert torch.equal(
        mtrl.per_task_gradients(network(x).square().mean(0), network.parameters()), every[:, 3 * 4 + 4 :]
    )
    network[1].requires_grad_(False)
    with pytest.raises(ValueError, match="expected at least one shared parameter that is trained"):
        mtrl.per_task_gradients(network(x).square().mean(0), network.parameters())


class Reweighed(mtrl.LossAggregator):
    def weights(self, losses: Tensor) -> Tensor:
        return torch.arange(1, len(losses) + 1).to(losses)


def test_heads_are_left_alone_by_loss_weights() -> None:
    network, plain, weighted = run("heads", "blocks", Reweighed()), build("heads"), build("heads")
    per_task_losses(plain).mean().backward()
    (torch.arange(1, T + 1).double() @ per_task_losses(weighted)).backward()
    for head, expected in zip(heads_of(network), heads_of(plain), strict=True):
        assert torch.equal(head.grad, expected.grad)
    torch.testing.assert_close(network.torso[0].weight.grad, weighted.torso[0].weight.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("route", ["blocks", "losses"])
@pytest.mark.parametrize("name", NETWORKS)
def test_mean_is_an_ordinary_backward(name, route, reduction, diagnostics, dtype) -> None:
    network = run(name, route, mtrl.Mean(reduction), dtype, diagnostics=diagnostics)
    plain = build(name, dtype)
    getattr(per_task_losses(plain), reduction)().backward()
    for found, expected in zip(gradients(network), gradients(plain), strict=True):
        assert torch.equal(found, expected)


def test_other_networks_in_the_graph_get_nothing_and_grad_is_set() -> None:
    """As an actor's loss that runs through a critic; the tape is used long after its forward pass."""
    actor, critic = nn.Linear(5, 2), nn.Linear(2, 1)
    x = torch.randn(T * B, 5)
    with mtrl.record(actor, T) as tape:
        actions = actor(x)
    with torch.no_grad():
        critic.weight.add_(1.0)
    for parameter in actor.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    losses = critic(actions).reshape(T, -1).mean(1)
    oracle = mtrl.Mean()(mtrl.per_task_gradients(losses, actor.parameters()), losses)
    mtrl.backward(losses, mtrl.Mean(), tape=tape)
    assert critic.weight.grad is None
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in actor.parameters()]), oracle)


@pytest.mark.parametrize("aggregator", mtrl.AGGREGATORS)
@pytest.mark.parametrize("route", ["blocks", "losses"])
def test_a_parameter_has_a_gradient_where_a_loss_reaches_it(route, aggregator) -> None:
    """As after losses.mean().backward(): None where none does; numbers as soon as one task's does."""
    network = nn.ModuleDict({name: nn.Linear(5, 1) for name in ("all", "first", "idle")})
    x, method = torch.randn(T * B, 5), mtrl.make_aggregator(aggregator)
    for _ in range(2):  # what a method remembers has one length, too
        with mtrl.record(network, T) as tape:
            outputs = {name: layer(x).reshape(T, -1).mean(1) for name, layer in network.items()}
        losses = torch.stack([outputs["all"][0] + outputs["first"][0], *outputs["all"][1:]])
        mtrl.backward(losses, method, **({"tape": tape} if route == "blocks" else {"parameters": network.parameters()}))
    assert [layer.weight.grad is None for layer in network.values()] == [False, False, True]
    assert all(network[name].weight.grad.ne(0).any() for name in ("all", "first"))


@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd"])
def test_losses_that_reach_no_parameter_are_refused(aggregator) -> None:
    network, other, method = build("mlp"), build("mlp"), mtrl.make_aggregator(aggregator)
    with mtrl.record(other, T) as tape:
        per_task_losses(other)
    for where in ({"parameters": other.parameters()}, {"tape": tape}):
        with pytest.raises(RuntimeError, match=r"none of the shared parameters.*another network.*reentrant checkpoint"):
            mtrl.backward(per_task_losses(network), method, **where)
    with pytest.raises(RuntimeError, match="none of the shared parameters"):
        mtrl.per_task_gradients(per_task_losses(network), other.parameters())


@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd"])
def test_a_layer_within_and_outside_of_a_reentrant_checkpoint_is_refused(aggregator) -> None:
    """All parameters are reached, and what the checkpoint hides would be missing."""
    layer, x, method = nn.Linear(5, T), torch.randn(B, 5, requires_grad=True), mtrl.make_aggregator(aggregator)
    losses = (checkpoint(layer, x, use_reentrant=True) + layer(x)).square().mean(0)
    with pytest.raises(RuntimeError, match=r"reentrant checkpoint, which hides the parameters.*use_reentrant=False"):
        mtrl.backward(losses, method, parameters=layer.parameters())


@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_parameters_behind_a_checkpoint_are_reached_or_missed_aloud(reentrant, aggregator) -> None:
    first, last, x = nn.Linear(5, 5), nn.Linear(5, T), torch.randn(B, 5, requires_grad=True)
    parameters, method = [*first.parameters(), *last.parameters()], mtrl.make_aggregator(aggregator)
    losses = last(checkpoint(first, x, use_reentrant=reentrant)).square().mean(0)
    if reentrant:
        with pytest.raises(
            RuntimeError, match=r"reentrant checkpoint, which hides the parameters.*use_reentrant=False"
        ):
            mtrl.backward(losses, method, parameters=parameters)
        assert all(parameter.grad is None for parameter in parameters)
    else:
        mtrl.backward(losses, method, parameters=parameters)
        assert all(parameter.grad.any() for parameter in parameters)


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd"])
@pytest.mark.parametrize("name", ["mlp", "heads"])
def test_the_graph_is_freed(name, aggregator, diagnostics) -> None:
    """As by losses.mean().backward(): else the activations live as long as the caller keeps the losses."""
    network, alive = build(name), weakref.WeakSet()

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            alive.add(self)

    method, shared = mtrl.make_aggregator(aggregator), network.torso if name == "heads" else network
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        losses = per_task_losses(network)
    assert len(alive) > 5
    heads = heads_of(network)
    mtrl.backward(losses, method, parameters=shared.parameters(), task_parameters=heads, diagnostics=diagnostics)
    assert losses.grad_fn is not None
    assert not alive


def test_two_losses_with_opposite_targets_have_cosine_minus_one() -> None:
    network = nn.Linear(3, 1).double()
    nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
    x = torch.randn(B, 3, dtype=torch.float64).repeat(2, 1)
    with mtrl.record(network, 2) as tape:
        predictions = network(x).reshape(2, B)
    losses = (predictions - torch.tensor([[1.0], [-1.0]])).square().mean(1)
    report = mtrl.backward(losses, mtrl.PCGrad(), tape=tape, diagnostics=True)
    assert report is not None
    torch.testing.assert_close(report["cosines"], torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))
    assert report["conflict_share"] == 1
    assert network.weight.grad.abs().max() < 1e-15


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("aggregator", [mtrl.PCGrad, Sorted, mtrl.Mean], ids=lambda a: a.__name__)
def test_the_report_measures_the_update_that_was_written(aggregator, reduction) -> None:
    network, plain = build("mlp"), build("mlp")
    with mtrl.record(network, T) as tape:
        losses = per_task_losses(network)
    jacobian = mtrl.per_task_gradients(losses, network.parameters())
    report = mtrl.backward(losses, aggregator(reduction), tape=tape, diagnostics=True)
    getattr(per_task_losses(plain), reduction)().backward()
    update, ordinary = (torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (network, plain))
    close = {"atol": 1e-7, "rtol": 1e-7}
    torch.testing.assert_close(report["norms"], jacobian.norm(dim=1), **close)
    torch.testing.assert_close(report["distance"], (update - ordinary).norm() / ordinary.norm(), **close)
    torch.testing.assert_close(report["angle"].cos(), torch.cosine_similarity(update, ordinary, dim=0), **close)
    assert not any(value.requires_grad for value in report.values())


# ---- what a tape cannot hold


class MyLinear(nn.Linear):
    """Exactly a Linear, but nobody can know that."""


class OwnsScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(5, 5), "weight", 0.5)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv1d(5, 5, 1), "Conv1d"),
        (MyLinear(5, 5), "MyLinear"),
        (parametrizations.weight_norm(nn.Linear(5, 5)), "ParametrizedLinear|ParametrizationList"),
        (pruned(), "Linear"),
        (OwnsScale(), "OwnsScale"),
    ],
    ids=["Conv1d", "subclass", "parametrised", "pruned", "own parameter"],
)
def test_unsupported_layers_are_named(layer, kind) -> None:
    network = nn.ModuleDict({"fine": nn.Linear(5, 5), "odd": layer})
    with pytest.raises(TypeError, match=rf"'odd.*({kind})"), mtrl.record(network, T):
        pass


def test_unsupported_layers_may_be_frozen_or_belong_to_tasks() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv1d(4, 3, 1), OwnsScale())
    network[1].requires_grad_(False)
    with mtrl.record(network, T, task_parameters=network[2].parameters()) as tape:
        network[0](torch.randn(T, 5))
    assert tape.parameters == list(network[0].parameters())


def test_tied_weights_are_named() -> None:
    network = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    network[1].weight = network[0].weight
    with pytest.raises(ValueError, match=r"'1\.weight' is tied to '0\.weight'"), mtrl.record(network, T):
        pass


def test_one_layer_under_two_names_is_one_layer() -> None:
    layer = nn.Linear(5, 5)
    network, x = nn.Sequential(layer, layer), torch.randn(T * B, 5)
    with mtrl.record(network, T) as tape:
        losses = network(x).square().reshape(T, -1).mean(1)
    oracle = mtrl.per_task_gradients(losses, tape.parameters)
    rows = tape.task_gradients(torch.autograd.grad(losses.sum(), tape.outputs))
    torch.testing.assert_close(torch.cat([row.flatten(1) for row in rows], 1), oracle)


def test_layers_never_called_are_named() -> None:
    network = nn.ModuleDict({"used": nn.Linear(5, 5), "idle": nn.Linear(5, 5)})
    with pytest.raises(RuntimeError, match=r"'idle' \(Linear\).*never called.*torch\.compile"), mtrl.record(network, T):
        network["used"](torch.randn(T, 5))


def test_rows_that_tasks_do_not_divide_are_refused() -> None:
    network = nn.Sequential(nn.Linear(5, 5))
    for shape in [(T * B + 1, 5), (5,)]:
        with pytest.raises(ValueError, match=r"'0' \(Linear\).*4 equal task blocks"), mtrl.record(network, T):
            network(torch.randn(shape))


def test_no_grad_is_refused() -> None:
    network = nn.Sequential(nn.Linear(5, 5))
    with pytest.raises(RuntimeError, match=r"'0' \(Linear\).*no_grad"), mtrl.record(network, T), torch.no_grad():
        network(torch.randn(T, 5))


def test_a_wrong_rule_is_named() -> None:
    class Wrong(EnsembleLinear):
        def block_gradients(self, inputs, grad_output, num_tasks):
            return {"weight": super().block_gradients(inputs, grad_output, num_tasks)["weight"][1:]}

    network = nn.Sequential(Wrong(2, 5, 1))
    with mtrl.record(network, T) as tape:
        losses = network(torch.randn(2, T * B, 5)).sum(0).reshape(T, -1).mean(1)
    with pytest.raises(ValueError, match=r"'0' \(Wrong\).*weight.*\(4, 2, 5, 1\).*\(3, 2, 5, 1\)"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape)


def test_hooks_are_removed_also_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(5, 5))
    with mtrl.record(network, T):
        network(torch.randn(T, 5))
    with pytest.raises(KeyError), mtrl.record(network, T):
        raise KeyError
    assert not network[0]._forward_hooks


def test_bad_arguments_are_explained() -> None:
    network = nn.Linear(5, 1)
    with mtrl.record(network, T) as tape:
        losses = network(torch.randn(T * B, 5)).reshape(T, -1).mean(1)
    mean, own = mtrl.Mean(), list(network.parameters())
    with pytest.raises(ValueError, match="both or neither"):
        mtrl.backward(losses, mean)
    with pytest.raises(ValueError, match="both or neither"):
        mtrl.backward(losses, mean, tape=tape, parameters=own)
    with pytest.raises(ValueError, match=r"expected one loss per task, \(4,\).*found shape \(3,\)"):
        mtrl.backward(losses[:3], mean, tape=tape)
    with pytest.raises(ValueError, match="named as both"):
        mtrl.backward(losses, mean, tape=tape, task_parameters=own[:1])
    with pytest.raises(ValueError, match="at least one shared parameter"):
        mtrl.backward(losses, mean, parameters=[])
    with pytest.raises(RuntimeError, match="none of the shared parameters"):
        mtrl.backward(torch.zeros(T, requires_grad=True) * 1, mtrl.PCGrad(), tape=tape)
    with pytest.raises(ValueError, match="at least one task"), mtrl.record(network, 0):
        pass


# ---- no synchronisation, no global generator


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd"])  # no method waits by itself: promises
@pytest.mark.parametrize("name", NETWORKS)
def test_no_synchronisation(name, aggregator, diagnostics) -> None:
    network = build(name)
    with mtrl.record(network, T, heads_of(network)) as tape:
        losses = per_task_losses(network)
    with NoSynchronisation():
        mtrl.backward(losses, mtrl.make_aggregator(aggregator), tape=tape, diagnostics=diagnostics)
    with pytest.raises(AssertionError, match="synchronises"), NoSynchronisation():
        losses.sum().item()


GLOBAL_GENERATORS = """
import random, numpy, torch, mtrl
network, x = torch.nn.Linear(5, 1), torch.randn(8, 5)
states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
for route in ("blocks", "losses"):
    with mtrl.record(network, 4) as tape:
        losses = network(x).reshape(4, 2).square().mean(1)
    how = {"tape": tape} if route == "blocks" else {"parameters": network.parameters()}
    mtrl.backward(losses, mtrl.PCGrad(), diagnostics=True, **how)
assert states == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
"""


def test_global_generators_are_left_alone() -> None:
    """Trap 5. In a process of its own: beartype, which checks the shapes in tests, draws from Python's generator."""
    root = Path(mtrl.__file__).parent.parent
    subprocess.run([sys.executable, "-c", GLOBAL_GENERATORS], check=True, cwd=root, timeout=600)


def test_accumulation_adds_the_updates_of_the_parts() -> None:
    network, aggregator = build("mlp"), mtrl.PCGrad()
    first, second = per_task_losses(network), 2 * per_task_losses(network)
    found = []
    for losses in (first, second):
        mtrl.backward(losses, aggregator, parameters=network.parameters())
        found.append([p.grad for p in network.parameters()])
    aggregator.reset(T, 0)
    network.zero_grad()
    for losses in (per_task_losses(network), 2 * per_task_losses(network)):
        mtrl.backward(losses, aggregator, parameters=network.parameters(), accumulate=True)
    for parameter, one, two in zip(network.parameters(), *found, strict=True):
        torch.testing.assert_close(parameter.grad, one + two)


def test_accumulation_without_a_gradient_keeps_what_is_there() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    unused.grad = torch.ones(2)
    losses = torch.stack([used.sum(), 2 * used.sum()])
    mtrl.backward(losses, mtrl.Mean(), parameters=[used, unused], accumulate=True)
    assert unused.grad.tolist() == [1.0, 1.0]
    assert used.grad.tolist() == [1.5, 1.5]


def test_named_parameters_are_taken_everywhere() -> None:
    """As by torch's optimizers."""
    network, plain = build("heads"), run("heads", "losses", mtrl.PCGrad())
    where = {"parameters": network.torso.named_parameters(), "task_parameters": network.heads.named_parameters()}
    mtrl.backward(per_task_losses(network), mtrl.PCGrad(), **where)
    assert all(torch.equal(*pair) for pair in zip(gradients(network), gradients(plain), strict=True))
    jacobians = [mtrl.per_task_gradients(per_task_losses(network), given) for given in (
        network.torso.parameters(), network.torso.named_parameters()
    )]  # fmt: skip
    assert torch.equal(*jacobians)
    with mtrl.record(network, T, network.heads.named_parameters()) as tape:
        per_task_losses(network)
    assert tape.task_parameters == heads_of(network)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda net: net, r"found one Linear; give .parameters\(\)"),
        (lambda net: [net], r"found a Linear in it; give .parameters\(\)"),
        (lambda net: net.weight, r"found one Parameter; give \[it\]"),
        (lambda net: dict(net.named_parameters()), r"found one dict; give .values\(\)"),
        (lambda net: torch.optim.SGD(net.parameters()).param_groups, r"found a dict in it; give .parameters\(\)"),
        (lambda net: 3, "found one int"),
    ],
    ids=["module", "modules", "parameter", "dict", "groups", "number"],
)
def test_other_things_than_parameters_are_told_everywhere(given, message) -> None:
    network = nn.Linear(5, 1)
    losses, wrong = network(torch.randn(T, 5)).flatten(), given(network)
    backward, per_task_gradients = mtrl.backward.__wrapped__, mtrl.per_task_gradients.__wrapped__  # as outside of tests
    for call in (
        lambda: backward(losses, mtrl.PCGrad(), parameters=wrong),
        lambda: backward(losses, mtrl.PCGrad(), parameters=network.parameters(), task_parameters=wrong),
        lambda: per_task_gradients(losses, wrong),
        lambda: mtrl.record(network, T, task_parameters=wrong).__enter__(),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize("route", ["blocks", "losses"])
def test_the_callers_grad_mode(route) -> None:
    """loss.backward() works inside of no_grad, too; of inference_mode it does not."""
    network, expected = build("mlp"), run("mlp", route, mtrl.PCGrad())
    with mtrl.record(network, T) as tape:
        losses = per_task_losses(network)
    where = {"tape": tape} if route == "blocks" else {"parameters": list(network.parameters())}
    with torch.inference_mode(), pytest.raises(ValueError, match=r"leave torch\.inference_mode"):
        mtrl.backward(losses, mtrl.PCGrad(), **where)
    with torch.no_grad():
        mtrl.backward(losses, mtrl.PCGrad(), **where)
    assert all(torch.equal(*pair) for pair in zip(gradients(network), gradients(expected), strict=True))


class Gained(Aggregator):
    """A method with a weight that is a parameter, in three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))


class GainedProducts(Gained, mtrl.GramianAggregator):
    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return self.gain * torch.ones_like(gramian[0])


class GainedLosses(Gained, mtrl.LossAggregator):
    def weights(self, losses: Tensor) -> Tensor:
        return self.gain * torch.ones_like(losses)


class GainedGradients(Gained):
    def forward(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        return (self.gain * jacobian).sum(0)


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("kind", [GainedProducts, GainedLosses, GainedGradients])
def test_a_method_with_a_learned_weight_leaves_no_graph(kind, diagnostics) -> None:
    for accumulate in (False, True):
        network = build("mlp")
        report = mtrl.backward(
            per_task_losses(network), kind(), parameters=network.parameters(), accumulate=accumulate,
            diagnostics=diagnostics,
        )  # fmt: skip
        assert not any(gradient.requires_grad for gradient in [*gradients(network), *(report or {}).values()])


@pytest.mark.parametrize("hooked", ["shared", "head"])
def test_hooks_that_would_not_run_are_refused(hooked) -> None:
    network = build("heads")
    parameter = network.torso[0].weight if hooked == "shared" else network.heads[0].weight
    parameter.register_post_accumulate_grad_hook(lambda p: None)
    where = {"parameters": network.torso.parameters(), "task_parameters": network.heads.parameters()}
    with pytest.raises(ValueError, match="hook for after its gradient's accumulation, which would not run"):
        mtrl.backward(per_task_losses(network), mtrl.Mean(), **where)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_training_loop_with_mean_is_the_ordinary_one(optimizer, clip) -> None:
    ours, theirs = build("mlp"), build("mlp")
    theirs.load_state_dict(ours.state_dict())
    optimizers = [optimizer(network.parameters(), lr=1e-2) for network in (ours, theirs)]
    for _ in range(5):
        mtrl.backward(per_task_losses(ours), mtrl.Mean(), parameters=ours.parameters())
        optimizers[1].zero_grad()
        per_task_losses(theirs).mean().backward()
        for network, step in zip((ours, theirs), optimizers, strict=True):
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            step.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


WRONG_CALLS = [
    (lambda w: ([w.sum()], mtrl.PCGrad()), "one tensor of losses .*found a list; see torch.stack"),
    (lambda w: (torch.ones(2), mtrl.PCGrad()), "found constants; compute them outside of no_grad"),
    (lambda w: (w.sum(), mtrl.PCGrad()), "one loss per task"),
    (lambda w: (w * w, "pcgrad"), "an instance of mtrl.Aggregator, such as .*; found 'pcgrad'"),
    (lambda w: (w * w, mtrl.PCGrad), "an instance of mtrl.Aggregator"),
    (lambda w: ((w * w).cfloat(), mtrl.Mean()), "losses of real numbers, found torch.complex64"),
    (lambda w: ((w * w).to("meta"), mtrl.Mean()), "losses of real numbers, found .* on meta"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_CALLS, ids=[message for _, message in WRONG_CALLS])
def test_wrong_calls_of_backward(arguments, message) -> None:
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises((TypeError, ValueError), match=message):
        mtrl.backward.__wrapped__(*arguments(parameter), parameters=[parameter])  # as outside of the tests


@pytest.mark.parametrize("method", [name for name in mtrl.AGGREGATORS if name != "mean"])
def test_gradients_of_complex_parameters_are_refused(method) -> None:
    """A product of real parts alone would take some conflicts for none."""
    parameter = nn.Parameter(torch.tensor([1 + 2j, -1j]))
    losses, aggregator = parameter.abs(), mtrl.make_aggregator(method)
    losses = torch.cat([losses] * aggregator.batches)
    if isinstance(aggregator, mtrl.LossAggregator):
        with pytest.raises(TypeError, match="complex"):
            mtrl.backward.__wrapped__(losses, aggregator, parameters=[parameter], diagnostics=True)
    else:
        with pytest.raises(TypeError, match="complex"):
            mtrl.backward.__wrapped__(losses, aggregator, parameters=[parameter])


def test_sparse_gradients_are_refused() -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    losses = torch.stack([layer(torch.tensor([1])).sum(), layer(torch.tensor([2])).sum()])
    with pytest.raises(TypeError, match="sparse=False"):
        mtrl.backward(losses, mtrl.PCGrad(), parameters=layer.parameters())
