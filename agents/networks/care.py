"""CARE: a mixture of encoders, weighted by what is known about the task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.networks.base import Inputs
from agents.networks.conditioning import Conditioning
from agents.networks.experts import Experts, mixed


class Care(Conditioning):
    """Instead of the observation the torso sees a mixture of K encodings of it, and an encoding of the task.

    (Sodhani et al. 2021, arXiv 2102.06177, Section 4.) With e_i a learned vector of task i:

        z_i = MLP(ReLU(e_i))             what is known of the task
        a_i = softmax(MLP(z_i))          attention, through which no gradient reaches z_i
        torso's input: [sum_k a_ik E_k(s), z_i]

    The vectors e_i take no part in surgery; everything else is shared. As in the authors' code
    (github.com/facebookresearch/mtrl), the attention looks at the task alone. Unlike it: actor and critics have
    encoders of their own, and the critics' see the action, too; e_i is learned and not a sentence's.

    :param embedding_size: numbers of e_i.
    :param experts: K. In the paper 6 on MT10, 10 on MT50.
    """

    UNITS = 50  # of every layer, as in the authors' code

    def __init__(self, plain: int, num_tasks: int, num_members: int | None, embedding_size: int = 32, experts: int = 4):
        super().__init__(plain, num_tasks, num_members)
        seen, units = self.inputs, self.UNITS
        self.table = nn.Parameter(torch.randn(*seen.members, num_tasks, embedding_size))
        self.context = nn.Sequential(
            nn.ReLU(), seen.linear(embedding_size, units), nn.ReLU(), seen.linear(units, units)
        )
        self.attention = nn.Sequential(seen.linear(units, units), nn.ReLU(), seen.linear(units, experts))
        self.encoders = Experts(seen, experts, units, units)
        self.inputs = Inputs(2 * units, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Each row's mixture, and its task's encoding."""
        plain, one_hot = observations[:, : -self.num_tasks], observations[:, -self.num_tasks :]
        context = self.context(self.table)  # (*members, T, units): a row per task, which the tape takes for its block
        weights = one_hot @ self.attention(context.detach()).softmax(-1)
        return self._joined([mixed(weights, self.encoders(self._joined([plain, *others]))), one_hot @ context])

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the vectors."""
        return [self.table]
