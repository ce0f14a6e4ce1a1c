"""The torsos that are offered. A torso is one class (see `agents.networks.base.Torso`) and one row in `TORSOS`."""

from __future__ import annotations

import math

from torch import nn

from agents.networks.base import Inputs, Stack, Torso
from agents.networks.experts import MixtureOfExperts, Mmoe, Moore
from agents.networks.layers import EnsembleLinear, ResidualBlock, start_orthogonal
from agents.networks.paco import PaCo
from agents.networks.ple import Ple
from agents.networks.simba import SimBa
from agents.networks.simba_v2 import SimbaV2
from agents.networks.soft_modularization import SoftModularization


class Mlp(Stack):
    """`depth` layers of `width` ReLU units, each with LayerNorm before the ReLU if asked."""

    def __init__(self, inputs: Inputs, width: int, depth: int, layer_norm: bool):
        def hidden(linear: nn.Module) -> list[nn.Module]:
            return [linear, inputs.layer_norm(width), nn.ReLU()] if layer_norm else [linear, nn.ReLU()]

        layers = hidden(inputs.first(inputs.linear(inputs.features, width)))
        for _ in range(depth - 1):
            layers += hidden(inputs.linear(width, width))
        super().__init__(*layers)
        self.out_features = width


class BroNet(Stack):
    """One layer of `width` ReLU units and `depth` residual blocks of two, with LayerNorm, from orthogonal matrices.

    (Nauman et al. 2024, arXiv 2405.16158, Section 3: a block is x + LN(W2 ReLU(LN(W1 x))).)
    """

    residual = True

    def __init__(self, inputs: Inputs, width: int, depth: int):
        def linear(in_features: int) -> nn.Linear | EnsembleLinear:
            return start_orthogonal(inputs.linear(in_features, width), math.sqrt(2))

        def norm() -> nn.Module:
            return inputs.layer_norm(width)

        def block() -> nn.Module:
            return ResidualBlock(linear(width), norm(), nn.ReLU(), linear(width), norm())

        first = inputs.first(linear(inputs.features))
        super().__init__(first, norm(), nn.ReLU(), *(block() for _ in range(depth)))
        self.out_features = width


TORSOS: dict[str, type[Torso]] = {
    "mlp": Mlp,
    "bronet": BroNet,
    "simba": SimBa,
    "simba-v2": SimbaV2,
    "soft-modularization": SoftModularization,
    "moe": MixtureOfExperts,
    "moore": Moore,
    "mmoe": Mmoe,
    "ple": Ple,
    "paco": PaCo,
}
