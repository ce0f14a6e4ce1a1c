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


class TaskColumns(nn.Module):
    """A linear layer whose inputs end in the task's one-hot, with the one-hot's columns as parameters of its own.

    The same map as a linear layer on all inputs; but these columns belong to one task each, so that they can stay out
    of surgery, where they lengthen a task's gradient and add nothing to an inner product.

    :param layer: what maps the inputs without the one-hot: the shared part.
    """

    def __init__(self, layer: nn.Linear | EnsembleLinear, num_tasks: int, in_features: int, out_features: int):
        super().__init__()
        self.layer = layer
        self.num_tasks = num_tasks
        members = (len(layer.weight),) if isinstance(layer, EnsembleLinear) else ()
        self.columns = _uniform(*members, num_tasks, out_features, fan_in=in_features + num_tasks)

    def forward(self, x: Float[Tensor, "*members rows in"]) -> Float[Tensor, "*members rows out"]:
        """The affine map of all inputs."""
        return self.layer(x[..., : -self.num_tasks]) + x[..., -self.num_tasks :] @ self.columns


class TaskEmbedding(nn.Module):
    """A learned vector of unit length per task (and member of an ensemble), in the place of its one-hot."""

    def __init__(self, num_tasks: int, size: int, batch_shape: tuple[int, ...] = ()):
        super().__init__()
        self.table = nn.Parameter(torch.randn(*batch_shape, num_tasks, size))

    def forward(self, one_hot: Float[Tensor, "rows tasks"]) -> Float[Tensor, "*batch rows size"]:
        """Each row's own vector."""
        return one_hot @ F.normalize(self.table, dim=-1)


class ResidualBlock(nn.Module):
    """x + LN(W2 ReLU(LN(W1 x))): a block of BroNet (Nauman et al. 2024, arXiv 2405.16158, Section 3)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The rows, changed by what the layers add."""
        return x + self.inner(x)


def torso(
    in_features: int,
    width: int,
    depth: int,
    layer_norm: bool = False,
    num_members: int | None = None,
    form: str = "mlp",
    num_tasks: int | None = None,
) -> nn.Sequential:
    """The hidden layers; N of them side by side if `num_members` is given.

    :param form: "mlp": `depth` layers of `width` ReLU units, each with LayerNorm before the ReLU if asked. "bronet":
        one such layer and `depth` residual blocks, all with LayerNorm, from orthogonal matrices.
    :param num_tasks: T, if the inputs end in a one-hot whose columns are to be parameters of their own.
    """

    def linear(fan_in: int) -> nn.Linear | EnsembleLinear:
        layer = nn.Linear(fan_in, width) if num_members is None else EnsembleLinear(num_members, fan_in, width)
        if form == "bronet":
            for weight in [layer.weight] if num_members is None else layer.weight:
                nn.init.orthogonal_(weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)
        return layer

    def norm() -> nn.Module:
        return nn.LayerNorm(width) if num_members is None else EnsembleLayerNorm(num_members, width)

    def hidden(first: nn.Module) -> list[nn.Module]:
        return [first, norm(), nn.ReLU()] if layer_norm or form == "bronet" else [first, nn.ReLU()]

    first = (
        linear(in_features) if num_tasks is None else TaskColumns(linear(in_features), num_tasks, in_features, width)
    )
    layers = hidden(first)
    if form == "bronet":
        layers += [ResidualBlock(*hidden(linear(width)), linear(width), norm()) for _ in range(depth)]
    else:
        layers += [layer for _ in range(depth - 1) for layer in hidden(linear(width))]
    return nn.Sequential(*layers)
