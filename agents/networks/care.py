"""CARE: a mixture of encoders, weighted by what is known about the task."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.networks.base import Inputs
from agents.networks.conditioning import Conditioning
from agents.networks.experts import Experts, mixed


class Care(Conditioning):
    """Instead of the observation the torso sees a mixture of K encodings of it, and an encoding of the task.

    (Sodhani et al. 2021, arXiv 2102.06177, Section 4.) With e_i a vector of task i:

        z_i = MLP(ReLU(e_i))             what is known of the task
        a_i = softmax(MLP(z_i))          attention, through which no gradient reaches z_i
        torso's input: [sum_k a_ik E_k(s), z_i]

    The vectors e_i are learned and take no part in surgery; or they are made of fixed ones v_i, such as a language
    model's of a sentence about the task: e_i = W2 ReLU(W1 ReLU(v_i)), with as many units between as e_i has numbers
    twice. Everything but learned vectors is shared. As in the authors' code (github.com/facebookresearch/mtrl), the
    attention looks at the task alone. Unlike it: actor and critics have encoders of their own, and the critics' see the
    action, too.

    :param embedding_size: numbers of e_i. In the paper 50.
    :param experts: K. In the paper 6 on MT10, 10 on MT50.
    :param task_vectors: fixed vectors v_i; None: e_i is learned. No file of weights holds them: they are a setting.
    """

    of_both = True
    UNITS = 50  # of every layer, as in the authors' code

    def __init__(
        self,
        plain: int,
        num_tasks: int,
        num_members: int | None,
        embedding_size: int = 32,
        experts: int = 4,
        task_vectors: Float[np.ndarray, "tasks numbers"] | None = None,
    ):
        super().__init__(plain, num_tasks, num_members)
        seen, units = self.inputs, self.UNITS
        sizes = [embedding_size, units, units]
        self.table: Tensor
        if task_vectors is None:
            self.table = nn.Parameter(torch.randn(*seen.members, num_tasks, embedding_size))
        else:
            fixed = torch.as_tensor(task_vectors, dtype=torch.get_default_dtype())
            self.register_buffer("table", fixed.repeat(*seen.members, 1, 1), persistent=False)
            sizes = [fixed.shape[-1], 2 * embedding_size, *sizes]
        layers = [[nn.ReLU(), seen.linear(*pair)] for pair in pairwise(sizes)]
        self.context = nn.Sequential(*chain.from_iterable(layers))
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
        """Return the vectors, if they are learned."""
        return [self.table] if isinstance(self.table, nn.Parameter) else []
