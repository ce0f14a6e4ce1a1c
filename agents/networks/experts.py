"""K networks side by side, whose outputs are mixed: MoE, MOORE (Hendawy et al. 2024) and MMoE (Ma et al. 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.fields import SettingError
from agents.networks.base import Inputs, Torso
from agents.networks.layers import EnsembleLinear, TaskHeads, TaskVectors


class Experts(nn.Module):
    """K multi-layer perceptrons that see the same: (*members, rows, in) -> (*members, K, rows, out), linear at the end.

    :param inputs: what they are built for; the conditioning does nothing to them.
    :param number: K.
    :param sizes: units of each layer, the last one's included.
    """

    def __init__(self, inputs: Inputs, number: int, *sizes: int):
        super().__init__()
        self.number = number
        stacked = number * (inputs.num_members or 1)
        layers: list[nn.Module] = []
        for in_features, out_features in pairwise((inputs.features, *sizes)):
            layers += [EnsembleLinear(stacked, in_features, out_features), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "*members rows in"]) -> Float[Tensor, "*members experts rows out"]:
        """Return what each expert makes of each row."""
        each = x.unsqueeze(-3).expand(*x.shape[:-2], self.number, *x.shape[-2:])
        return self.layers(each.flatten(0, -3)).unflatten(0, each.shape[:-2])


def mixed(
    weights: Float[Tensor, "*members rows experts"], outputs: Float[Tensor, "*members experts rows out"]
) -> Float[Tensor, "*members rows out"]:
    """Each row's weighted sum of the experts' outputs."""
    return (weights.mT.unsqueeze(-1) * outputs).sum(-3)


class MixtureOfExperts(Torso):
    """h = tanh(sum_k c_ik f_k(s)): K experts that do not know the task, and free weights c_i of task i.

    It is MOORE without the orthogonality, the baseline "MoE" of its paper (Hendawy et al. 2024, arXiv 2311.11385).
    The weights take no part in surgery.

    :param width: units of each layer of an expert.
    :param depth: layers of an expert; the last one is linear.
    :param experts: K. In the paper 4 on MT10, 6 on MT50.
    """

    takes_task = True

    def __init__(self, inputs: Inputs, width: int, depth: int, experts: int):
        super().__init__()
        self.out_features = width
        self.experts = Experts(inputs, experts, *[width] * depth)
        self.weights = TaskVectors(inputs.num_tasks, experts, inputs.members)
        bound = (6 / (inputs.num_tasks + experts)) ** 0.5  # Xavier, as in the authors' code
        nn.init.uniform_(self.weights.table, -bound, bound)

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return the mixture of each row's experts with its task's weights."""
        return mixed(self.weights(task, features.shape[-2]), self.representations(features)).tanh()

    def representations(
        self, features: Float[Tensor, "*members rows columns"]
    ) -> Float[Tensor, "*members experts rows out"]:
        """Return what is mixed."""
        return self.experts(features)


class Moore(MixtureOfExperts):
    """MOORE: the experts' outputs are made orthonormal, row by row, before they are mixed.

    (Hendawy et al. 2024, arXiv 2311.11385, Section 4: Gram-Schmidt, in the order of the experts.)

    :param experts: K, at most `width`: so many directions there are.
    :raises SettingError: for more.
    """

    def __init__(self, inputs: Inputs, width: int, depth: int, experts: int):
        if experts > width:
            raise SettingError("experts", f"at most {width}, the width, as moore's are orthogonal", experts)
        super().__init__(inputs, width, depth, experts)

    def representations(
        self, features: Float[Tensor, "*members rows columns"]
    ) -> Float[Tensor, "*members experts rows out"]:
        """Orthonormal vectors."""
        outputs = self.experts(features)
        with torch.autocast(outputs.device.type, enabled=False):
            return orthonormal(outputs.to(self.weights.table.dtype))


def orthonormal(vectors: Float[Tensor, "*batch experts rows out"]) -> Float[Tensor, "*batch experts rows out"]:
    """Gram-Schmidt over the experts, in each row by itself; the modified form, which rounds less."""
    basis: list[Tensor] = []
    for vector in vectors.unbind(-3):
        for unit in basis:
            vector = vector - (vector * unit).sum(-1, keepdim=True) * unit
        basis.append(vector * (vector.square().sum(-1, keepdim=True) + 1e-16).rsqrt())
    return torch.stack(basis, -3)


class Mmoe(Torso):
    """h = sum_k softmax(W_i s)_k ReLU(f_k(s)): each task has a gate of its own, which looks at the state.

    (Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, Equations 5
    to 7.) The gates take no part in surgery. The paper has an output layer per task, which is `multi_head`.

    :param width: units of each layer of an expert.
    :param depth: layers of an expert.
    :param experts: K.
    """

    takes_task = True

    def __init__(self, inputs: Inputs, width: int, depth: int, experts: int):
        super().__init__()
        self.out_features = width
        self.experts = Experts(inputs, experts, *[width] * depth)
        self.gates = TaskHeads(inputs.num_tasks, inputs.features, experts, inputs.members)

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return the mixture of each row's experts, by the gate of its task."""
        return mixed(self.gates(features, task).softmax(-1), self.experts(features).relu())
