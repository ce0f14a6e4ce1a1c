"""mtrl.backward in the architectures of multi-task learning: shared parts get surgery, each task's own parts do not."""

import pytest
import torch
from torch import Tensor, nn

import mtrl

T, WIDTH = 3, 8


class HardSharing(nn.Module):
    """One body, a head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh())
        self.own = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(T))

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = self.body(x)
        return [head(hidden) for head in self.own]


class MixtureOfExperts(nn.Module):
    """MMoE: shared experts, mixed by a gate per task."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, WIDTH) for _ in range(4))
        self.own = nn.ModuleList(nn.ModuleList([nn.Linear(5, 4), nn.Linear(WIDTH, 1)]) for _ in range(T))

    def forward(self, x: Tensor) -> list[Tensor]:
        experts = torch.stack([expert(x).tanh() for expert in self.experts], dim=1)
        return [head((gate(x).softmax(1).unsqueeze(2) * experts).sum(1)) for gate, head in self.own]


class CrossStitch(nn.Module):
    """A tower per task; the shared stitches let each see the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stitches = nn.Parameter(torch.eye(T) + 0.1 * torch.randn(T, T))
        self.own = nn.ModuleList(nn.ModuleList([nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1)]) for _ in range(T))

    def forward(self, x: Tensor) -> list[Tensor]:
        towers = torch.stack([first(x).tanh() for first, _ in self.own])
        stitched = torch.einsum("st,tbw->sbw", self.stitches, towers)
        return [head(rows) for rows, (_, head) in zip(stitched, self.own, strict=True)]


class Attention(nn.Module):
    """MTAN in small: a shared body, which each task looks at through a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh())
        self.own = nn.ModuleList(nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)]) for _ in range(T))

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = self.body(x)
        return [head(mask(hidden).sigmoid() * hidden) for mask, head in self.own]


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad", "cagrad", "mocograd", "famo"])
@pytest.mark.parametrize("architecture", [HardSharing, MixtureOfExperts, CrossStitch, Attention])
def test_shared_parts_get_the_aggregate_and_own_parts_the_mean(architecture, aggregator) -> None:
    torch.manual_seed(0)
    network = architecture().double()
    own = list(network.own.parameters())
    shared = [p for p in network.parameters() if not any(p is other for other in own)]
    x, y = torch.randn(16, 5).double(), torch.randn(T, 16, 1).double()

    def losses() -> Tensor:
        return torch.stack([(out - target).square().mean() for out, target in zip(network(x), y, strict=True)])

    losses().mean().backward()
    plain = [p.grad.clone() for p in own]
    jacobian = mtrl.per_task_gradients(losses(), shared)
    expected = mtrl.make_aggregator(aggregator)
    method = mtrl.make_aggregator(aggregator)
    for each in (expected, method):
        each.reset(T, jacobian.shape[1])
    mtrl.backward(losses(), method, parameters=shared, task_parameters=own)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), expected(jacobian, losses().detach()))
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(own, plain, strict=True))
