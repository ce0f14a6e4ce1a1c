"""PLE: layers of shared experts, and one expert per task."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.networks.base import Inputs, Torso
from agents.networks.experts import Experts, mixed
from agents.networks.layers import TaskHeads


class Level(nn.Module):
    """K shared experts and one of each task, each a layer; gates mix them for the task's stream and the shared one.

    :param last: no level follows, which would see the shared stream.
    """

    def __init__(self, inputs: Inputs, out_features: int, experts: int, last: bool):
        super().__init__()
        sizes = inputs.num_tasks, inputs.features
        self.experts = Experts(inputs, experts, out_features)
        self.own = TaskHeads(*sizes, out_features, inputs.members)
        self.gates = TaskHeads(*sizes, experts + 1, inputs.members)
        self.shared_gate = None if last else inputs.linear(inputs.features, experts + 1)

    def forward(self, own: Tensor, shared: Tensor, task: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return both streams, (*members, rows, out) each."""
        outputs = torch.cat([self.own(own, task).unsqueeze(-3), self.experts(shared)], -3).relu()
        own = mixed(self.gates(own, task).softmax(-1), outputs)
        return own, shared if self.shared_gate is None else mixed(self.shared_gate(shared).softmax(-1), outputs)


class Ple(Torso):
    """Progressive layered extraction: in each level a task's gate mixes shared experts with the task's own.

    (Tang et al. 2020, doi 10.1145/3383313.3412236, Section 4.2: two streams, of the task and of all.) A row belongs to
    one task, so the shared stream hears of that task's own experts alone; in the paper, where each row has labels of
    all tasks, of everyone's. Own experts and the tasks' gates take no part in surgery.

    :param width: units of an expert.
    :param depth: levels.
    :param experts: K shared experts in a level.
    """

    takes_task = True

    def __init__(self, inputs: Inputs, width: int, depth: int, experts: int):
        super().__init__()
        self.out_features = width
        sizes = pairwise([inputs.features, *[width] * depth])
        self.levels = nn.ModuleList(
            Level(replace(inputs, features=size), out, experts, last=number == depth)
            for number, (size, out) in enumerate(sizes, 1)
        )

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return the task's stream."""
        own = shared = features
        for level in self.levels:
            own, shared = level(own, shared, task)
        return own
