"""Layers of the task-conditioned networks.

Rows of a training batch lie in T blocks of B rows, block t from task t, so the layers that treat tasks or critics
apart are plain batched products. A layer whose parameters belong to one task each names them in `task_parameters()`:
they take no part in surgery.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Draw a parameter as `torch.nn.Linear` draws its own: uniform within 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class EnsembleLinear(nn.Module):
    """N linear layers as one batched product: (N, rows, in) -> (N, rows, out)."""

    def __init__(self, num_members: int, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = uniform(num_members, in_features, out_features, fan_in=in_features)
        self.bias = uniform(num_members, 1, out_features, fan_in=in_features)

    def forward(self, x: Float[Tensor, "members rows in"]) -> Float[Tensor, "members rows out"]:
        """Each member's affine map of its own rows."""
        if self.weight.shape[-1] == 1:  # a value: a product with one column is slow, forward and backward
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        return torch.baddbmm(self.bias, x, self.weight)

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        """Per-task gradients {name: (T, *shape)} from inputs (N, T B, in) and output gradients (N, T B, out)."""
        # (T, N, ...) first: the small activations are rearranged so that the large product comes out contiguous
        x = inputs.to(grad_output.dtype).unflatten(1, (num_tasks, -1)).transpose(0, 1)
        delta = grad_output.unflatten(1, (num_tasks, -1)).transpose(0, 1)
        return {"weight": x.mT @ delta, "bias": delta.sum(2, keepdim=True)}


class EnsembleLayerNorm(nn.Module):
    """LayerNorm over the last dimension with a gain and an offset for each of N members: (N, rows, features)."""

    def __init__(self, num_members: int, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, 1, features))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, features))

    def forward(self, x: Float[Tensor, "members rows features"]) -> Float[Tensor, "members rows features"]:
        """Normalise each row, then scale and shift it, in the precision of the rows."""
        return torch.addcmul(self.bias.to(x.dtype), F.layer_norm(x, x.shape[-1:]), self.weight.to(x.dtype))

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        """Per-task gradients {name: (T, *shape)}."""
        normal = F.layer_norm(inputs, inputs.shape[-1:])

        def per_task(rows: Tensor) -> Tensor:
            return rows.unflatten(1, (num_tasks, -1)).transpose(0, 1).sum(2, keepdim=True)

        return {"weight": per_task(grad_output * normal), "bias": per_task(grad_output)}


def make_linear(num_members: int | None, in_features: int, out_features: int) -> nn.Linear | EnsembleLinear:
    """One linear layer, or N side by side."""
    if num_members is None:
        return nn.Linear(in_features, out_features)
    return EnsembleLinear(num_members, in_features, out_features)


def start_orthogonal(layer: nn.Linear | EnsembleLinear, gain: float) -> nn.Linear | EnsembleLinear:
    """Draw an orthogonal matrix, times a factor, for each member, and let the bias begin at zero."""
    for weight in layer.weight if isinstance(layer, EnsembleLinear) else [layer.weight]:
        nn.init.orthogonal_(weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def make_layer_norm(num_members: int | None, features: int) -> nn.LayerNorm | EnsembleLayerNorm:
    """One LayerNorm, or N side by side."""
    return nn.LayerNorm(features) if num_members is None else EnsembleLayerNorm(num_members, features)


def one_by_one(layer: nn.Module, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Per-task gradients {name: (T, *shape)} of any layer (..., T B, in) -> (..., T B, out), by T backward passes.

    A layer says `block_gradients = one_by_one`. The passes go through this layer alone; a rule of its own that takes
    one product is faster.
    """
    parameters = {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    dtype = next(iter(parameters.values())).dtype  # inputs and gradient may come in less precision
    blocks = zip(inputs.to(dtype).chunk(num_tasks, -2), grad_output.to(dtype).chunk(num_tasks, -2), strict=True)
    with torch.enable_grad():
        rows = [torch.autograd.grad(layer(x), list(parameters.values()), dy) for x, dy in blocks]
    return {name: torch.stack(gradients) for name, gradients in zip(parameters, zip(*rows, strict=True), strict=True)}


class TaskHeads(nn.Module):
    """One linear output layer per task (and per member of an ensemble): the multi-head form.

    :param batch_shape: () for the actor, (N,) for N critics; inputs are (*batch_shape, rows, in).
    """

    def __init__(self, num_tasks: int, in_features: int, out_features: int, batch_shape: tuple[int, ...] = ()):
        super().__init__()
        self.num_tasks = num_tasks
        self.weight = uniform(*batch_shape, num_tasks, in_features, out_features, fan_in=in_features)
        self.bias = uniform(*batch_shape, num_tasks, 1, out_features, fan_in=in_features)

    def forward(self, x: Float[Tensor, "*batch rows in"], task: Float[Tensor, "rows tasks"] | None) -> Tensor:
        """Return the output (*batch, rows, out) of each row's own head.

        :param task: which head each row takes, as a one-hot; None if the rows lie in T equal task blocks (training).
        """
        if task is None:
            blocks = x.unflatten(-2, (self.num_tasks, -1))
            return (blocks @ self.weight + self.bias).flatten(-3, -2)
        every_head = x.unsqueeze(-3) @ self.weight + self.bias  # (*batch, T, rows, out)
        return (every_head * task.T.unsqueeze(-1)).sum(-3)

    def task_parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return [self.weight, self.bias]


class TaskColumns(nn.Module):
    """A linear layer whose inputs end in the task's one-hot, with the one-hot's columns as parameters of its own.

    The same map as a linear layer on all inputs; but these columns belong to one task each, so that they can stay out
    of surgery, where they lengthen a task's gradient and add nothing to an inner product.

    :param layer: what maps the inputs without the one-hot: the shared part.
    """

    def __init__(self, layer: nn.Linear | EnsembleLinear, num_tasks: int):
        super().__init__()
        self.layer = layer
        self.num_tasks = num_tasks
        members = (len(layer.weight),) if isinstance(layer, EnsembleLinear) else ()
        self.columns = uniform(*members, num_tasks, layer.out_features, fan_in=layer.in_features + num_tasks)

    def forward(self, x: Float[Tensor, "*members rows in"]) -> Float[Tensor, "*members rows out"]:
        """Return the affine map of all inputs."""
        return self.layer(x[..., : -self.num_tasks]) + x[..., -self.num_tasks :] @ self.columns

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the one-hot's columns."""
        return [self.columns]


class TaskVectors(nn.Module):
    """A learned vector per task (and member of an ensemble): what a linear layer makes of the task's one-hot."""

    def __init__(self, num_tasks: int, size: int, batch_shape: tuple[int, ...] = ()):
        super().__init__()
        self.num_tasks = num_tasks
        self.table = uniform(*batch_shape, num_tasks, size, fan_in=num_tasks)

    def forward(self, task: Float[Tensor, "rows tasks"] | None, rows: int) -> Float[Tensor, "*batch rows size"]:
        """Each row's own vector.

        :param task: which vector each row takes, as a one-hot; None if the rows lie in T equal task blocks (training).
        """
        if task is None:
            return self.table.repeat_interleave(rows // self.num_tasks, -2)
        return task @ self.table

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the vectors."""
        return [self.table]


class ResidualBlock(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows, changed by what the layers add."""
        return x + self.inner(x)
