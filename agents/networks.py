"""Layers and torsos of the task-conditioned networks.

Rows of a training batch lie in T blocks of B rows, block t from task t, so the layers that treat tasks or critics
apart are plain batched products. Heads per task are task-specific parameters: they take no part in surgery.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn as `torch.nn.Linear` draws its own: uniform within 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class EnsembleLinear(nn.Module):
    """N linear layers as one batched product: (N, rows, in) -> (N, rows, out)."""

    def __init__(self, num_members: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = _uniform(num_members, in_features, out_features, fan_in=in_features)
        self.bias = _uniform(num_members, 1, out_features, fan_in=in_features)

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


class TaskHeads(nn.Module):
    """One linear output layer per task (and per member of an ensemble): the multi-head form.

    :param batch_shape: () for the actor, (N,) for N critics; inputs are (*batch_shape, rows, in).
    """

    def __init__(self, num_tasks: int, in_features: int, out_features: int, batch_shape: tuple[int, ...] = ()):
        super().__init__()
        self.num_tasks = num_tasks
        self.weight = _uniform(*batch_shape, num_tasks, in_features, out_features, fan_in=in_features)
        self.bias = _uniform(*batch_shape, num_tasks, 1, out_features, fan_in=in_features)

    def forward(self, x: Float[Tensor, "*batch rows in"], one_hot: Float[Tensor, "rows tasks"] | None) -> Tensor:
        """The output (*batch, rows, out) of each row's own head.

        :param one_hot: None if the rows lie in T equal task blocks (training), else which head each row takes.
        """
        if one_hot is None:
            blocks = x.unflatten(-2, (self.num_tasks, -1))
            return (blocks @ self.weight + self.bias).flatten(-3, -2)
        every_head = x.unsqueeze(-3) @ self.weight + self.bias  # (*batch, T, rows, out)
        return (every_head * one_hot.T.unsqueeze(-1)).sum(-3)


def torso(in_features: int, width: int, depth: int, layer_norm: bool, num_members: int | None = None) -> nn.Sequential:
    """`depth` layers of `width` ReLU units, each with LayerNorm before the ReLU if asked; N of them side by side if
    `num_members` is given."""
    layers: list[nn.Module] = []
    for fan_in in [in_features] + [width] * (depth - 1):
        layers.append(nn.Linear(fan_in, width) if num_members is None else EnsembleLinear(num_members, fan_in, width))
        if layer_norm:
            layers.append(nn.LayerNorm(width) if num_members is None else EnsembleLayerNorm(num_members, width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
