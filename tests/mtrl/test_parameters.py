"""The parameters that a caller names, and the `.grad` that they get: as loss.backward() leaves them."""

import copy

import pytest
import torch
from torch import nn

import mtrl
from mtrl import make_aggregator

torch.set_num_threads(1)
T = 3
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Sums(nn.Module):
    """Parameters whose gradients autograd gives as one tensor, as views of one, stretched, or transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight, self.delta = nn.Parameter(torch.randn(4, T)), nn.Parameter(torch.zeros(4, T))
        self.flat, self.turned = nn.Parameter(torch.zeros(4 * T)), nn.Parameter(torch.randn(T, 4))
        self.level = nn.Parameter(torch.randn(5))

    def forward(self, x):
        weight = self.weight + self.delta + self.flat.view(4, T) + self.turned.T
        return (x @ weight).square().mean(0) + self.level.sum() * torch.arange(1.0, T + 1)


def clipped(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)


def unscaled(parameters):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))  # makes its factor
    scaler.unscale_(torch.optim.SGD(parameters, 0.1))


def stepped(parameters):
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, foreach=True)
    optimizer.step()
    optimizer.step()


@pytest.mark.parametrize("use", [clipped, unscaled, stepped])
@pytest.mark.parametrize("route", ["shared", "heads", "features", "accumulated"])
@pytest.mark.parametrize("name", ["mean", "uncertainty", "pcgrad", "mocograd"])
def test_what_writes_into_grad_finds_tensors_of_their_own(name, route, use):
    """Clipping, unscaling and optimizers scaled a gradient twice that two parameters shared."""
    network, plain = Sums(), Sums()
    parameters, where = list(network.parameters()), {"parameters": list(network.parameters())}
    losses = network(X)
    if route == "heads":
        other = nn.Parameter(torch.ones(()))
        losses, where = losses * other, {"parameters": [other], "task_parameters": parameters}
    elif route == "features":
        where["features"] = losses = 1 * losses
        losses = losses.square()
    mtrl.backward(losses, make_aggregator(name), **where, accumulate=route == "accumulated")
    # the oracle: torch's own accumulation of the same numbers, each in a tensor of its own
    for parameter, twin in zip(parameters, plain.parameters(), strict=True):
        twin.grad = parameter.grad.clone()
        assert parameter.grad.stride() == parameter.stride()
    use(parameters)
    use(list(plain.parameters()))
    for parameter, twin in zip(parameters, plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad)
        torch.testing.assert_close(parameter, twin)


def test_the_mean_leaves_what_loss_backward_leaves():
    network, plain = Sums(), Sums()
    mtrl.backward(network(X), mtrl.Mean(), parameters=network.parameters())
    plain(X).mean().backward()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
        assert mine.grad.stride() == theirs.grad.stride()


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_a_gradient_has_the_layout_of_its_parameter(form):
    layer = nn.Conv2d(3, 4, 3).to(memory_format=form)
    losses = layer(torch.randn(T, 3, 5, 5)).square().mean((1, 2, 3))
    mtrl.backward(losses, mtrl.PCGrad(), parameters=layer.parameters())
    assert layer.weight.grad.is_contiguous(memory_format=form)


def test_sparse_gradients_of_heads_stay_sparse():
    shared, head = nn.Linear(4, 4), nn.Embedding(6, 4, sparse=True)
    losses = (shared(X[:T]) * head(torch.tensor([0, 2, 4]))).sum(1)
    mtrl.backward(losses, mtrl.PCGrad(), parameters=shared.parameters(), task_parameters=head.parameters())
    assert head.weight.grad.is_sparse


# ---- what is named
def used_up(parameters, kind):
    given = kind(parameters)
    list(given)
    return given


@pytest.mark.parametrize("kind", [lambda each: (p for p in each), lambda each: filter(None, each), iter])
@pytest.mark.parametrize("role", ["parameters", "task_parameters"])
def test_an_iterator_that_is_used_up_is_refused(role, kind):
    body, head = nn.Linear(4, 4), nn.Linear(4, T)
    roles = {"parameters": list(body.parameters()), "task_parameters": list(head.parameters())}
    roles[role] = used_up([nn.Parameter(torch.ones(1))], kind)
    with pytest.raises(ValueError, match=r"iterator that is used up; keep a list"):
        mtrl.backward(head(body(X)).mean(0), mtrl.PCGrad(), **roles)
    with pytest.raises(ValueError, match=r"iterator that is used up; keep a list"), mtrl.record(body, 2, roles[role]):
        pass


def test_a_module_without_parameters_has_no_heads():
    body = nn.Linear(4, T)
    mtrl.backward(
        body(X).mean(0), mtrl.PCGrad(), parameters=body.parameters(), task_parameters=nn.Identity().parameters()
    )
    assert body.weight.grad is not None


def test_what_was_computed_of_parameters_is_none():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, T))
    with torch.nn.utils.parametrize.cached():
        losses = layer(X).square().mean(0)
        with pytest.raises(ValueError, match=r"computed of others.*parametrizations"):
            mtrl.backward(losses, mtrl.PCGrad(), parameters=iter([layer.weight]))
    mtrl.backward(layer(X).square().mean(0), mtrl.PCGrad(), parameters=layer.parameters())


# ---- around a call
@pytest.mark.parametrize("name", ["mean", "pcgrad", "mgda", "mocograd", "cagrad", "graddrop"])
def test_an_autocast_around_a_method_changes_nothing(name):
    jacobian, losses = torch.randn(T, 50, generator=torch.Generator().manual_seed(2)), torch.ones(T)
    inside, outside = make_aggregator(name), make_aggregator(name)
    with torch.autocast("cpu", torch.bfloat16):
        update = inside(jacobian, losses)
    assert torch.equal(update, outside(jacobian, losses))


@pytest.mark.parametrize("around", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_jacobian_is_the_same_in_any_context(around):
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, T))
    losses = network(X).square().mean(0)
    expected = mtrl.per_task_gradients(losses, network.parameters())
    with around():
        assert torch.equal(mtrl.per_task_gradients(losses, network.parameters()), expected)


@pytest.mark.parametrize("name", ["mocograd", "db_mtl"])
def test_a_memory_is_in_float32_whatever_the_default(name):
    torch.set_default_dtype(torch.bfloat16)
    try:
        method = make_aggregator(name)
    finally:
        torch.set_default_dtype(torch.float32)
    method(torch.randn(T, 4), torch.ones(T))
    assert {each.dtype for each in method.buffers() if each.is_floating_point()} <= {torch.float32, torch.float64}


class Unreduced(mtrl.PCGrad):
    def weights(self, gramian, losses):
        return torch.eye(len(losses), dtype=gramian.dtype)


class Rows(mtrl.Aggregator):
    def forward(self, jacobian, losses):
        return jacobian


@pytest.mark.parametrize(
    ("method", "message"), [(Unreduced(), "a weight for each task"), (Rows(), "an update of the shared")]
)
def test_a_method_that_gives_another_shape_is_told(method, message):
    """A Gramian method's (T, T) would be taken for weights of T parameters."""
    network = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(T)])
    losses = torch.stack([(X @ each).square().mean() for each in network])
    with pytest.raises(ValueError, match=f"{type(method).__name__} should give {message}.*self.reduce"):
        mtrl.backward(losses, method, parameters=list(network))


# ---- a task with no rows in the batch
@pytest.mark.parametrize("name", ["stch", "uncertainty", "imtl_l", "gls"])
def test_a_task_that_is_absent_leaves_the_others_as_if_it_were_none(name):
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    absent, alone = make_aggregator(name), make_aggregator(name)
    for step in range(20):
        now = losses / (1 + step * torch.tensor([0.1, 0.3]))
        weights, expected = absent.weights(torch.cat([now, now.new_zeros(1)])), alone.weights(now)
        torch.testing.assert_close(weights[0] / weights[1], expected[0] / expected[1])
    assert absent.weights(torch.zeros(3)).isfinite().all()
    present = absent.weights(torch.cat([now, now.new_ones(1)]))
    assert 0 < present[2] < 0.999  # it was never far away


def test_copies_of_a_model_with_its_method_average():
    model = nn.Linear(4, T)
    model.method = mtrl.GradNorm()
    model.method.reset(T, sum(p.numel() for p in model.parameters()))
    average = torch.optim.swa_utils.AveragedModel(copy.deepcopy(model), use_buffers=True)
    mtrl.backward(model(X).square().mean(0), model.method, parameters=list(model.parameters()))
    average.update_parameters(model)
    average.update_parameters(model)
