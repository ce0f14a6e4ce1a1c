"""FiLM: the task scales and shifts the units of an encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from agents.networks.base import Inputs
from agents.networks.conditioning import TaskEmbedding
from agents.networks.layers import TaskVectors


class Film(TaskEmbedding):
    """Instead of the observation the torso sees an encoding of it, whose units the task scales and shifts.

    (Perez et al. 2018, arXiv 1709.07871, Equation 2.) Of each of `LAYERS` layers x <- ReLU((1 + gamma_i) (W x + b) +
    beta_i), with a gamma and a beta per unit, and task: at first they do nothing. The torso sees the encoding and the
    task's vector, as for `embedding`. Vectors, gammas and betas take no part in surgery; a network that makes them from
    the task's vector, as in the authors' code, would come to as many free numbers.
    """

    of_both = True
    LAYERS, UNITS = 3, 50  # as in github.com/facebookresearch/mtrl
    per_unit: ClassVar[bool] = True

    def __init__(self, plain: int, num_tasks: int, num_members: int | None, embedding_size: int = 32):
        super().__init__(plain, num_tasks, num_members, embedding_size)
        sizes = [plain, *[self.UNITS] * (self.LAYERS - 1)]
        self.layers = nn.ModuleList(self.inputs.linear(size, self.UNITS) for size in sizes)
        numbers = 2 * self.LAYERS * (self.UNITS if self.per_unit else 1)
        self.modulation = TaskVectors(num_tasks, numbers, self.inputs.members)
        nn.init.zeros_(self.modulation.table)
        self.inputs = Inputs(self.UNITS + embedding_size, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Each row's encoding, and its task's vector."""
        plain, one_hot = observations[:, : -self.num_tasks], observations[:, -self.num_tasks :]
        x = self._joined([plain, *others])
        modulation = self.modulation(one_hot, one_hot.shape[0]).unflatten(-1, (self.LAYERS, 2, -1))
        for layer, numbers in zip(self.layers, modulation.unbind(-3), strict=True):
            gamma, beta = numbers.unbind(-2)
            x = ((1 + gamma) * layer(x) + beta).relu()
        return self._joined([x, self.vectors(one_hot)])


class ScalarFilm(Film):
    """FiLM with one gamma and beta per layer and task, as in the codes of the field (mtrl, metaworld-algorithms)."""

    per_unit = False
