"""SimbaV2: features and weights of unit length."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agents.networks.base import Inputs, Torso


class UnitLinear(nn.Module):
    """A linear map without bias whose weights have unit length for each output, at first and after every step."""

    def __init__(self, inputs: Inputs, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*inputs.members, in_features, out_features))
        for weight in self.weight.data.view(-1, in_features, out_features):
            nn.init.orthogonal_(weight)
        self.after_step()

    def forward(self, x: Float[Tensor, "*members rows in"]) -> Float[Tensor, "*members rows out"]:
        """Products of each row with each output's weights."""
        return x @ self.weight

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the weights back to unit length."""
        self.weight.copy_(F.normalize(self.weight, dim=-2))

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        """Per-task gradients {name: (T, *shape)}."""
        x = inputs.to(grad_output.dtype).unflatten(-2, (num_tasks, -1)).movedim(-3, 0)
        return {"weight": x.mT @ grad_output.unflatten(-2, (num_tasks, -1)).movedim(-3, 0)}


class Scaler(nn.Module):
    """A learned factor per unit: `start` at first, kept as a number of size `scale`, which sets how fast it learns."""

    def __init__(self, inputs: Inputs, features: int, start: float, scale: float):
        super().__init__()
        self.factor = start / scale
        self.weight = nn.Parameter(torch.full((*inputs.members, 1, features), scale))

    def forward(self, x: Float[Tensor, "*members rows features"]) -> Float[Tensor, "*members rows features"]:
        """Each unit times its factor."""
        return x * (self.weight * self.factor).to(x.dtype)

    def block_gradients(self, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        """Per-task gradients {name: (T, *shape)}."""
        products = (self.factor * grad_output * inputs).unflatten(-2, (num_tasks, -1))
        return {"weight": products.sum(-2, keepdim=True).movedim(-3, 0)}


class Block(nn.Module):
    """x <- norm(x + alpha (norm(W2 ReLU(s W1 x)) - x)), four times as wide between."""

    EXPANSION = 4

    def __init__(self, inputs: Inputs, width: int, depth: int):
        super().__init__()
        wide = self.EXPANSION * width
        size = math.sqrt(2 / wide)
        self.up, self.scaler = UnitLinear(inputs, width, wide), Scaler(inputs, wide, size, size)
        self.down = UnitLinear(inputs, wide, width)
        self.alpha = Scaler(inputs, width, 1 / (depth + 1), 1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows, moved on the sphere."""
        inner = F.normalize(self.down(self.scaler(self.up(x)).relu()), dim=-1)
        return F.normalize(x + self.alpha(inner - x), dim=-1)


class SimbaV2(Torso):
    """Blocks on the unit sphere: rows are normalised after each, weights after each step of the optimizer.

    (Lee et al. 2025, arXiv 2502.15280, Section 4.) x = norm(s W norm([features, `SHIFT`])), then `depth` blocks. The
    running normalisation of the inputs is not part of it, and the output layer is the network's own.

    :param width: units of the stream x. In the paper 128 for the actor, 512 for the critics.
    :param depth: blocks. In the paper 1 and 2.
    """

    residual = True
    SHIFT = 3.0  # a constant column, so that the length of the features is not lost

    def __init__(self, inputs: Inputs, width: int, depth: int):
        super().__init__()
        size = math.sqrt(2 / width)
        self.out_features = width
        self.first, self.scaler = UnitLinear(inputs, inputs.features + 1, width), Scaler(inputs, width, size, size)
        self.blocks = nn.Sequential(*(Block(inputs, width, depth) for _ in range(depth)))

    def forward(self, features: Tensor, task: Tensor | None = None) -> Tensor:
        """Rows of unit length."""
        x = F.normalize(F.pad(features, (0, 1), value=self.SHIFT), dim=-1)
        return self.blocks(F.normalize(self.scaler(self.first(x)), dim=-1))
