"""Soft modularization: layers of modules, and a routing network that says how much each module hears of which."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.networks.base import Inputs, Torso
from agents.networks.layers import EnsembleLinear, TaskVectors


class SoftModularization(Torso):
    """L layers of n modules whose connections are softmax weights, chosen row by row from observation and task.

    (Yang et al. 2020, arXiv 2003.13661, Section 4.) With f the state's features of dimension D, z_i a vector of task i:

        g = f(s) * z_i                                             what the routing network sees
        p^1 = W_d^1 ReLU(g)                                        Equation 6
        p^l = W_d^l ReLU(g * W_u^l [p^1 ... p^(l-1)])              Equation 5
        p^l_jk = softmax over k                                    Equation 7
        x^(l+1)_j = ReLU(sum_k p^l_jk W^l_k x^l_k)                 Equation 8

    As the authors' code (github.com/RchalYang/Soft-Module) and unlike the paper: two layers of `ROUTING_WIDTH` units
    lie between f(s) * z_i and g; x^1 = ReLU(f(s)); the p^l in Equation 5 are the normalised ones, of all layers before;
    the ReLU of Equation 8 comes after the sum; and a last row p^L of n weights brings the last layer's modules together
    (Equation 9 adds them up). Unlike both, z_i is a vector per task that takes no part in surgery (there a linear layer
    with a bias), and layers start as torch's own, but for the routes, which start nearly equal as in the code.

    :param width: D, units of the two layers of f.
    :param depth: L.
    :param modules: n, modules in a layer.
    :param module_width: units of a module. MT10 in the paper: L = n = 2 and 256; MT50: L = n = 4 and 128.
    """

    takes_task = True
    ROUTING_WIDTH = 256

    def __init__(self, inputs: Inputs, width: int, depth: int, modules: int, module_width: int):
        super().__init__()
        self.modules_per_layer, self.out_features = modules, module_width
        hidden, routes = self.ROUTING_WIDTH, modules * modules
        linear = inputs.linear
        self.state = nn.Sequential(linear(inputs.features, width), nn.ReLU(), linear(width, width))
        self.vectors = TaskVectors(inputs.num_tasks, width, inputs.members)
        self.routing = nn.Sequential(nn.ReLU(), linear(width, hidden), nn.ReLU(), linear(hidden, hidden))
        self.up = nn.ModuleList(linear(before * routes, hidden) for before in range(1, depth))
        self.down = nn.ModuleList([*(linear(hidden, routes) for _ in range(depth - 1)), linear(hidden, modules)])
        for layer in self.down:
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -3e-3, 3e-3)
        # The modules of the first layer see the same: together they are one linear layer.
        self.first = linear(width, modules * module_width)
        stacked = modules * (inputs.num_members or 1)
        self.later = nn.ModuleList(EnsembleLinear(stacked, module_width, module_width) for _ in range(depth - 1))

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return what the last layer's modules give, brought together."""
        state = self.state(features)
        first_routes, *later_routes = self.routes(state, task)
        modules = self.first(state.relu()).unflatten(-1, (self.modules_per_layer, -1))  # (*members, rows, n, out)
        x = (first_routes @ modules).relu()
        for layer, routes in zip(self.later, later_routes, strict=True):
            inputs = x.transpose(-3, -2)  # (*members, n, rows, out): a module's rows together
            modules = layer(inputs.flatten(0, -3)).view(inputs.shape)
            x = (routes @ modules.transpose(-3, -2)).relu()
        return x.squeeze(-2)

    def routes(self, state: Tensor, task: Float[Tensor, "rows tasks"] | None) -> list[Tensor]:
        """How much of each module k enters module j of the next layer: L weights (*members, rows, j, k).

        The last layer has one j.
        """
        gate = self.routing(state * self.vectors(task, state.shape[-2]))
        found: list[Tensor] = []
        for number, down in enumerate(self.down):
            before = gate
            if number:
                before = gate * self.up[number - 1](torch.cat([routes.flatten(-2) for routes in found], -1))
            found.append(down(before.relu()).unflatten(-1, (-1, self.modules_per_layer)).softmax(-1))
        return found

    @classmethod
    def as_mlp(cls, depth: int) -> dict[str, Any]:
        """As many layers, those of f included."""
        return {"depth": 2 + depth}
