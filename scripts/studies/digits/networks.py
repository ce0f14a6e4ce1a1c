"""Three ways to share a network between two tasks; small, of fully connected layers.

Every network maps rows of pixels to logits per task, and says which of its parameters are shared: only these enter
surgery.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scripts.studies.digits.data import PIXELS, TASKS

CLASSES = 10


class SharedNetwork(nn.Module, ABC):
    """A network in parts: what is in `shared` belongs to all tasks, all else to one."""

    shared: nn.Module

    @abstractmethod
    def forward(self, rows: Float[Tensor, "rows pixels"]) -> Float[Tensor, "tasks rows classes"]:
        """Logits of each task for every row."""

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that enter surgery."""
        return list(self.shared.parameters())

    def task_parameters(self) -> list[nn.Parameter]:
        """All others."""
        shared = set(map(id, self.shared.parameters()))
        return [parameter for parameter in self.parameters() if id(parameter) not in shared]


class HardSharing(SharedNetwork):
    """One trunk for all tasks, and a linear head each (Caruana 1997)."""

    def __init__(self, width: int = 128, features: int = 64) -> None:
        super().__init__()
        self.shared = nn.Sequential(_layer(PIXELS, width), _layer(width, features))
        self.heads = nn.ModuleList(nn.Linear(features, CLASSES) for _ in TASKS)

    def forward(self, rows: Float[Tensor, "rows pixels"]) -> Float[Tensor, "tasks rows classes"]:
        """Trunk, then heads."""
        features = self.shared(rows)
        return torch.stack([head(features) for head in self.heads])


class MMoE(SharedNetwork):
    """Experts for all tasks; each task mixes them by a gate of its own (Ma et al. 2018)."""

    shared: nn.ModuleList

    def __init__(self, experts: int = 4, width: int = 64, features: int = 32) -> None:
        super().__init__()
        self.shared = nn.ModuleList(
            nn.Sequential(_layer(PIXELS, width), _layer(width, features)) for _ in range(experts)
        )
        self.gates = nn.ModuleList(nn.Linear(PIXELS, experts) for _ in TASKS)
        self.heads = nn.ModuleList(nn.Linear(features, CLASSES) for _ in TASKS)

    def forward(self, rows: Float[Tensor, "rows pixels"]) -> Float[Tensor, "tasks rows classes"]:
        """Experts, mixed once per task."""
        opinions = torch.stack([expert(rows) for expert in self.shared], dim=1)  # (rows, experts, features)
        mixed = [(gate(rows).softmax(1)[:, None] @ opinions)[:, 0] for gate in self.gates]
        return torch.stack([head(features) for head, features in zip(self.heads, mixed, strict=True)])


class Attention(SharedNetwork):
    """One trunk; each task looks at its layers through masks of its own (after MTAN, Liu et al. 2019).

    As in MTAN a mask is a sigmoid of the layer's features and of what the task saw one layer before. Deviations: fully
    connected layers instead of convolutions, and no batch normalisation.
    """

    shared: nn.ModuleList

    def __init__(self, width: int = 128, features: int = 64) -> None:
        super().__init__()
        self.shared = nn.ModuleList([_layer(PIXELS, width), _layer(width, features)])
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in TASKS)
        self.between = nn.ModuleList(_layer(width, features) for _ in TASKS)
        self.second = nn.ModuleList(nn.Linear(2 * features, features) for _ in TASKS)
        self.heads = nn.ModuleList(nn.Linear(features, CLASSES) for _ in TASKS)

    def forward(self, rows: Float[Tensor, "rows pixels"]) -> Float[Tensor, "tasks rows classes"]:
        """Trunk once, masks and heads per task."""
        low = self.shared[0](rows)
        high = self.shared[1](low)
        logits = []
        for first, between, second, head in zip(self.first, self.between, self.second, self.heads, strict=True):
            seen = between(first(low).sigmoid() * low)
            mask = second(torch.cat([high, seen], dim=1)).sigmoid()
            logits.append(head(mask * high))
        return torch.stack(logits)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


ARCHITECTURES: dict[str, type[SharedNetwork]] = {"hard-sharing": HardSharing, "mmoe": MMoE, "attention": Attention}
