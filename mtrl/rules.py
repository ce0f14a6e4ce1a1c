"""How a layer's gradient for each task follows from its input and the gradient at its output, in task blocks.

Each rule costs about what the layer's ordinary weight gradient costs, however many tasks there are.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

# (layer, inputs, gradient at the output, T) -> for each parameter of the layer its T gradients, (T, *shape)
BlockRule = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]


def linear(layer: nn.Linear, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Multiply inputs and output gradients, a product per block."""
    x = inputs.to(grad_output.dtype).reshape(num_tasks, -1, layer.in_features)  # autocast multiplied in its precision
    dy = grad_output.reshape(num_tasks, -1, layer.out_features)
    return {"weight": dy.mT @ x, "bias": dy.sum(1)}


def layer_norm(layer: nn.LayerNorm, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Sum output gradients times normalised inputs over each block."""
    normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps).to(grad_output.dtype)
    blocks = (num_tasks, -1, *layer.normalized_shape)
    dy = grad_output.reshape(blocks)
    return {"weight": (dy * normalised.reshape(blocks)).sum(1), "bias": dy.sum(1)}


def group_norm(layer: nn.GroupNorm, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Do as `layer_norm`, also over all places of a channel; it normalises within a row, so rows do not mix."""
    normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps).to(grad_output.dtype)
    blocks = (num_tasks, len(inputs) // num_tasks, layer.num_channels, -1)
    dy = grad_output.reshape(blocks)
    return {"weight": (dy * normalised.reshape(blocks)).sum((1, 3)), "bias": dy.sum((1, 3))}


def conv2d(layer: nn.Conv2d, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Take the ordinary weight gradient of each block: together they are one of the whole batch."""
    x, padding = inputs.to(grad_output.dtype), layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)
    weights = [
        conv2d_weight(block, layer.weight.shape, dy, layer.stride, padding, layer.dilation, layer.groups)
        for block, dy in zip(x.chunk(num_tasks), grad_output.chunk(num_tasks), strict=True)
    ]
    bias = grad_output.reshape(num_tasks, -1, *grad_output.shape[1:]).sum((1, 3, 4))
    return {"weight": torch.stack(weights), "bias": bias}


def embedding(layer: nn.Embedding, inputs: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Add output gradients up where their block's task has its row of the table."""
    blocks = torch.arange(num_tasks, device=inputs.device).repeat_interleave(inputs.numel() // num_tasks)
    total = grad_output.new_zeros(num_tasks * layer.num_embeddings, layer.embedding_dim)
    total.index_add_(0, inputs.flatten() + blocks * layer.num_embeddings, grad_output.reshape(-1, layer.embedding_dim))
    weight = total.view(num_tasks, *layer.weight.shape)
    if layer.padding_idx is not None:
        weight[:, layer.padding_idx] = 0
    return {"weight": weight}


RULES: dict[type[nn.Module], BlockRule] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.Conv2d: conv2d,
    nn.Embedding: embedding,
}
_AXES = {nn.Conv2d: 4, nn.Embedding: 1}  # of an input that has rows, at least; of all others 2


def rule_for(layer: nn.Module) -> BlockRule | None:
    """Return the rule of a layer, or None: by exact type, as a subclass may compute something else."""
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.scale_grad_by_freq):
        return None  # the latter counts names over all blocks
    return RULES.get(type(layer))


def has_blocks(layer: nn.Module, inputs: Tensor, num_tasks: int) -> bool:
    """Return whether a layer of `RULES` was given rows in equal task blocks."""
    return inputs.ndim >= _AXES.get(type(layer), 2) and len(inputs) % num_tasks == 0
