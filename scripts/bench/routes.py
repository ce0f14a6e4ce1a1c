"""Ways to the gradients of T tasks from one batch in task blocks, side by side; why `mtrl.record` works as it does.

    python -m scripts.bench.routes

A critic-sized network, forward and backward, ending with the T gradients of every parameter. All ways give the same
numbers (checked first); the ordinary backward pass, which gives their sum alone, is the yardstick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import mtrl
from agents import keep_freed_memory
from agents.networks.base import Inputs
from agents.networks.torsos import Mlp
from scripts.common import command
from scripts.common.screen import Screen

Gradients = list[Tensor]  # one (T, *shape) per parameter


@dataclass(frozen=True)
class RoutesConfig:
    """Median time of forward and backward with per-task gradients."""

    batch_size: int = 128
    """Rows per task."""
    width: int = 400
    """Units in a hidden layer; there are three."""
    threads: int = torch.get_num_threads()
    """Threads of torch."""
    rounds: int = 15
    """How often each way takes its turn."""


def losses_of(outputs: Tensor, num_tasks: int) -> Tensor:
    """A loss per task, (T,)."""
    return outputs.view(num_tasks, -1).square().mean(1)


def ordinary(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """No task's gradient, only their sum: the yardstick."""
    return list(torch.autograd.grad(losses_of(net(x), num_tasks).sum(), list(net.parameters())))


def module_hooks(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """Ours: forward hooks keep inputs, one backward pass to the layers' outputs, a batched product per layer."""
    with mtrl.record(net, num_tasks) as tape:
        losses = losses_of(net(x), num_tasks)
    return _all(tape.task_gradients(torch.autograd.grad(losses.sum(), tape.outputs)))


class _TaskLinear(torch.autograd.Function):
    """A linear layer whose backward pass leaves the weight gradients of T tasks in a list."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_tasks: int, found: Gradients) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.num_tasks, ctx.found = num_tasks, found
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        delta = grad_outputs[0]
        blocks = delta.unflatten(0, (ctx.num_tasks, -1))
        ctx.found[:0] = [blocks.mT @ x.unflatten(0, (ctx.num_tasks, -1)), blocks.sum(1)]
        return delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


def task_aware_linear(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """An own autograd function in place of every linear layer."""
    found: Gradients = []
    start = x = x.detach().requires_grad_()
    for layer in net:
        x = (
            _TaskLinear.apply(x, layer.weight, layer.bias, num_tasks, found)
            if isinstance(layer, nn.Linear)
            else layer(x)
        )
    torch.autograd.grad(losses_of(x, num_tasks).sum(), start)
    return found


def expanded_leaves(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """A view of every weight per task, so that autograd itself makes T gradients; products become T small ones."""
    leaves = [p.detach().expand(num_tasks, *p.shape).requires_grad_() for p in net.parameters()]
    weights = iter(leaves)
    rows = x.view(num_tasks, -1, x.shape[1])
    for layer in net:
        rows = _expanded(layer, rows, weights)
    return list(torch.autograd.grad(losses_of(rows, num_tasks).sum(), leaves))


def _expanded(layer: nn.Module, rows: Tensor, weights: Iterator[Tensor]) -> Tensor:
    if not isinstance(layer, nn.Linear):
        return layer(rows)
    weight, bias = next(weights), next(weights)
    return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)


def vmap_of_grad(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """torch.func: the gradient function of one task, mapped over tasks."""

    def loss(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        return functional_call(net, parameters, (rows,)).square().mean()

    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x.view(num_tasks, -1, x.shape[1]))
    return [found[name] for name in parameters]


def block_by_block(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """T forward and backward passes over one task's rows each."""
    parameters = list(net.parameters())
    rows = [torch.autograd.grad(net(block).square().mean(), parameters) for block in x.chunk(num_tasks)]
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


def loss_by_loss(net: nn.Sequential, x: Tensor, num_tasks: int) -> Gradients:
    """One forward pass, T backward passes over all rows: the route for any model."""
    return _all(mtrl.gradients._one_by_one(losses_of(net(x), num_tasks), list(net.parameters())))


def _all(gradients: Sequence[Tensor | None]) -> Gradients:
    return [gradient for gradient in gradients if gradient is not None]


WAYS: tuple[Callable[[nn.Sequential, Tensor, int], Gradients], ...] = (
    ordinary,
    module_hooks,
    task_aware_linear,
    expanded_leaves,
    vmap_of_grad,
    block_by_block,
    loss_by_loss,
)


def measure(config: RoutesConfig, num_tasks: int) -> dict[str, np.ndarray]:
    """Milliseconds of every way, (rounds,); the ways take turns."""
    torch.manual_seed(0)
    net = Mlp(Inputs(53, num_tasks), config.width, 3, layer_norm=False).append(nn.Linear(config.width, 1))
    x = torch.randn(num_tasks * config.batch_size, 53)
    expected = loss_by_loss(net, x, num_tasks)
    for way in WAYS[1:]:
        for found, right in zip(way(net, x, num_tasks), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-5, msg=f"{way.__name__} is wrong")
    times: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    for turn in range(config.rounds):
        for way in WAYS if turn < 3 else WAYS[:-1]:  # the last one takes many times as long as all others together
            start = time.perf_counter()
            way(net, x, num_tasks)
            times[way.__name__].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def _ratio(times: dict[str, np.ndarray], name: str) -> float:
    return float(np.median(times[name] / times["ordinary"][: len(times[name])]))


def main(argv: Sequence[str]) -> int:
    """Measures for 10 and 50 tasks and prints one table."""
    config = tyro.cli(RoutesConfig, prog="python -m scripts.bench.routes", args=argv, description=__doc__)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    table = Table("way", "T = 10, ms", "x ordinary", "T = 50, ms", "x ordinary")
    found = [measure(config, num_tasks) for num_tasks in (10, 50)]
    for way in WAYS:
        cells = [(np.median(t[way.__name__]), _ratio(t, way.__name__)) for t in found]
        table.add_row(way.__name__.replace("_", " "), *(f"{value:.1f}" for cell in cells for value in cell))
    Screen().print(table, f"{config.threads} threads, torch {torch.__version__}")
    return 0


if __name__ == "__main__":
    command.run(main)
