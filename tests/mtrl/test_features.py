"""Surgery on the gradients of a representation: where it equals the ordinary one, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

import mtrl

T, FEATURES = 3, 4
torch.set_num_threads(1)


class Model:
    """A trunk of two layers and a head per task, in float64, on a batch."""

    def __init__(self, rows: int = 6, trunk: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.trunk = (trunk or nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, FEATURES), nn.Tanh())).double()
        self.heads = nn.ModuleList(nn.Linear(FEATURES, 2) for _ in range(T)).double()
        self.x, self.y = torch.randn(rows, 5).double(), torch.randn(T, rows, 2).double()

    def __call__(self) -> tuple[Tensor, Tensor]:
        z = self.trunk(self.x)
        losses = [(head(z) - y).square().mean() for head, y in zip(self.heads, self.y, strict=True)]
        return torch.stack(losses), z

    def gradients(self, name: str, features: bool, **options: bool) -> list[Tensor]:
        losses, z = self()
        mtrl.backward(
            losses,
            mtrl.make_aggregator(name),
            parameters=self.trunk.parameters(),
            task_parameters=self.heads.parameters(),
            features=z if features else None,
            **options,
        )
        return [p.grad for p in [*self.trunk.parameters(), *self.heads.parameters()]]


@pytest.mark.parametrize("name", ["mean", "famo"])
def test_weights_that_see_no_gradient_give_the_ordinary_update(name) -> None:
    model = Model()
    for one, other in zip(model.gradients(name, True), model.gradients(name, False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "mocograd"])
def test_one_row_through_one_layer_is_the_ordinary_method(name) -> None:
    """dL/dW = dL/dz x^T: all inner products are those of dL/dz, times |x|^2 + 1."""
    model = Model(rows=1, trunk=nn.Linear(5, FEATURES))
    for one, other in zip(model.gradients(name, True), model.gradients(name, False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)  # mocograd's momenta are in float32


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "graddrop"])
def test_the_aggregate_of_the_representation_goes_back_through_the_trunk(name) -> None:
    model = Model()
    losses, z = model()
    jacobian = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses])
    update = mtrl.make_aggregator(name)(jacobian, losses.detach())
    expected = torch.autograd.grad(z, list(model.trunk.parameters()), update.view_as(z), retain_graph=True)
    plain = torch.autograd.grad(losses.mean(), list(model.heads.parameters()))
    found = model.gradients(name, True)
    torch.testing.assert_close(found[:4], list(expected))
    assert all(torch.equal(one, other) for one, other in zip(found[4:], plain, strict=True))
    ordinary = model.gradients(name, False)
    assert any(not torch.allclose(one, other, rtol=1e-2) for one, other in zip(found[:4], ordinary[:4], strict=True))


def test_the_trunk_is_passed_once() -> None:
    model, passes = Model(), []
    model.trunk[0].register_forward_hook(lambda _, x, out: out.register_hook(lambda _: passes.append(1)) and None)
    model.gradients("pcgrad", True)
    assert len(passes) == 1
    model.gradients("pcgrad", False)
    assert len(passes) == 1 + T


def test_several_tensors_and_a_part_of_a_layer_s_output() -> None:
    """MMoE's experts; a chunk has its node in common with the others."""
    model = Model(trunk=nn.Linear(5, 2 * FEATURES))

    def losses_of(parts: tuple[Tensor, ...]) -> Tensor:
        mixed = [head(parts[0] + k * parts[1]) for k, head in enumerate(model.heads)]
        return torch.stack([(out - y).square().mean() for out, y in zip(mixed, model.y, strict=True)])

    parts = model.trunk(model.x).chunk(2, dim=1)
    mtrl.backward(losses_of(parts), mtrl.PCGrad(), parameters=model.trunk.parameters(), features=parts)
    found = [p.grad for p in model.trunk.parameters()]
    whole = model.trunk(model.x)
    mtrl.backward(losses_of(whole.chunk(2, dim=1)), mtrl.PCGrad(), parameters=model.trunk.parameters(), features=whole)
    for one, other in zip(found, model.trunk.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)
    parts = model.trunk(model.x).chunk(2, dim=1)
    with pytest.raises(ValueError, match="depend on 2 of the shared parameters past the features"):
        mtrl.backward(losses_of(parts), mtrl.PCGrad(), parameters=model.trunk.parameters(), features=parts[0])


def test_diagnostics_are_those_of_the_representation() -> None:
    model = Model()
    losses, z = model()
    jacobian = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses])
    for name in ("pcgrad", "mean"):
        losses, z = model()
        report = mtrl.backward(
            losses,
            mtrl.make_aggregator(name),
            parameters=model.trunk.parameters(),
            features=z,
            diagnostics=True,
        )
        torch.testing.assert_close(report["norms"], jacobian.norm(dim=1))


def test_half_precision_and_accumulation() -> None:
    model = Model()
    model.trunk.float(), model.heads.float()
    model.x, model.y = model.x.float(), model.y.float()
    with torch.autocast("cpu", torch.bfloat16):
        losses, z = model()
    assert z.dtype == torch.bfloat16
    where = {"parameters": list(model.trunk.parameters()), "features": z}
    mtrl.backward(losses.float(), mtrl.PCGrad(), **where)
    once = [p.grad.clone() for p in where["parameters"]]
    with torch.autocast("cpu", torch.bfloat16):
        losses, where["features"] = model()
    mtrl.backward(losses.float(), mtrl.PCGrad(), accumulate=True, **where)
    torch.testing.assert_close([p.grad for p in where["parameters"]], [2 * g for g in once])


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda m, z: z.detach(), ValueError, "found constants"),
        (lambda m, z: z.clone(), ValueError, "depend on 0 of 1 features"),
        (lambda m, z: [z, z], ValueError, "each once"),
        (lambda m, z: [], TypeError, "a tensor or several; found none"),
        (lambda m, z: m.last, ValueError, "depend on 0 of 1 features"),
    ],
)
def test_what_does_not_lie_between_is_refused(spoil, error, message) -> None:
    model = Model()
    model.last = model.trunk(model.x)  # of another forward pass
    losses, z = model()
    with pytest.raises(error, match=message):
        mtrl.backward(losses, mtrl.PCGrad(), parameters=model.trunk.parameters(), features=spoil(model, z))
    assert all(p.grad is None for p in model.trunk.parameters())


def test_features_of_features_of_other_parameters_and_of_a_tape_are_refused() -> None:
    model = Model()
    hidden = model.trunk[1](model.trunk[0](model.x))
    z = model.trunk[3](model.trunk[2](hidden))
    losses = torch.stack([head(z).square().mean() + hidden.mean() for head in model.heads])
    first = list(model.trunk[0].parameters())
    with pytest.raises(ValueError, match="one of the features was made of another"):
        mtrl.backward(losses, mtrl.PCGrad(), parameters=first, features=[hidden, z])
    losses, z = model()
    with pytest.raises(RuntimeError, match="the features depend on none of the shared parameters"):
        mtrl.backward(losses, mtrl.PCGrad(), parameters=nn.Linear(2, 2).parameters(), features=z)
    with mtrl.record(model.trunk, 3) as tape:
        losses, z = model()
    with pytest.raises(ValueError, match=r"expected features with parameters=, found a tape|past"):
        mtrl.backward(losses, mtrl.PCGrad(), tape=tape, features=z)
