"""SimBa: residual blocks after a LayerNorm."""

from __future__ import annotations

import math

from torch import nn

from agents.networks.base import Inputs, Stack
from agents.networks.layers import ResidualBlock, start_orthogonal


class SimBa(Stack):
    """One linear layer, `depth` blocks x + W2 ReLU(W1 LN(x)) with four times as many units between, and a LayerNorm.

    (Lee et al. 2025, arXiv 2410.09754, Section 4: an orthogonal first layer, He's normal start in the blocks.) The
    running normalisation of the inputs is not part of it.

    :param width: units of the stream x. In the paper 128 for the actor, 512 for the critics.
    :param depth: blocks. In the paper 1 and 2.
    """

    residual = True
    EXPANSION = 4

    def __init__(self, inputs: Inputs, width: int, depth: int):
        def he(in_features: int, out_features: int) -> nn.Module:
            layer = inputs.linear(in_features, out_features)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / in_features))
            nn.init.zeros_(layer.bias)
            return layer

        wide = self.EXPANSION * width
        first = inputs.first(start_orthogonal(inputs.linear(inputs.features, width), 1.0))
        blocks = (
            ResidualBlock(inputs.layer_norm(width), he(width, wide), nn.ReLU(), he(wide, width)) for _ in range(depth)
        )
        super().__init__(first, *blocks, inputs.layer_norm(width))
        self.out_features = width
