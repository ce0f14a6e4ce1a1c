"""PaCo: each task's parameters are a combination of K sets that all tasks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agents.fields import SettingError
from agents.networks.base import Inputs, Torso
from agents.networks.layers import TaskVectors, uniform


class Sets(nn.Module):
    """K sets of a linear layer's parameters: from T tasks' weights of them to T layers, the bias as the last row.

    To the tape it is a layer like others, whose row i is task i's: a task's layer depends on no other's weights.
    """

    def __init__(self, inputs: Inputs, number: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = uniform(*inputs.members, number, in_features + 1, out_features, fan_in=in_features)

    def forward(self, mix: Float[Tensor, "*members tasks sets"]) -> Float[Tensor, "*members tasks in_and_one out"]:
        """W_i = sum_k w_ik W_k."""
        return (mix @ self.weight.flatten(-2)).unflatten(-1, self.weight.shape[-2:])

    def block_gradients(self, mix: Tensor, grad_output: Tensor, num_tasks: int) -> dict[str, Tensor]:
        """Return the tasks' gradients of each set: that of set k is w_ik times that of task i's layer."""
        weights = mix.to(grad_output.dtype).movedim(-2, 0)[..., None, None]
        return {"weight": weights * grad_output.movedim(-3, 0).unsqueeze(-3)}


class PaCo(Torso):
    """Parameter-compositional layers: W_i = sum_k w_ik W_k in every hidden layer, and likewise for biases.

    (Sun et al. 2022, arXiv 2210.11653, Section 3.) The sets W_k are shared, the vectors w_i take no part in surgery.
    They start at unit length, so that composed layers start as torch's own. With a `loss_limit` tasks whose losses
    explode begin anew. Unlike the authors' code: the output layer is the network's own, for all tasks or one per task;
    actor and critics have vectors of their own.

    :param width: units of a layer.
    :param depth: layers.
    :param experts: K, at most T. In the paper 5 on MT10, 20 on MT50.
    :raises SettingError: for more.
    """

    takes_task = sets_back = True

    def __init__(self, inputs: Inputs, width: int, depth: int, experts: int):
        super().__init__()
        if experts > inputs.num_tasks:
            expected = f"at most {inputs.num_tasks}, the number of tasks, as more sets than tasks add nothing to paco"
            raise SettingError("experts", expected, experts)
        self.num_tasks, self.out_features = inputs.num_tasks, width
        self.mix = TaskVectors(inputs.num_tasks, experts, inputs.members)
        self.mix.table.data = F.normalize(nn.init.normal_(self.mix.table.data), dim=-1)
        sizes = [inputs.features, *[width] * (depth - 1)]
        self.sets = nn.ModuleList(Sets(inputs, experts, size, width) for size in sizes)

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return what the composed layers of each row's task make of it.

        Rows in any order go through the layers of all tasks, of which theirs is taken, as in `TaskHeads`.
        """
        x = features.unflatten(-2, (self.num_tasks, -1)) if task is None else features.unsqueeze(-3)
        for sets in self.sets:
            layers = sets(self.mix.table)
            x = (x @ layers[..., :-1, :] + layers[..., -1:, :]).relu()
        return x.flatten(-3, -2) if task is None else (x * task.T.unsqueeze(-1)).sum(-3)

    @torch.no_grad()
    def set_back(self, tasks: Bool[Tensor, " tasks"], shares: Float[Tensor, "tasks tasks"]) -> None:
        """Put means of other tasks' vectors in the place of these tasks'; as in the authors' code, moments stay."""
        table = self.mix.table
        table.copy_(torch.where(tasks.unsqueeze(-1), shares.to(table.dtype) @ table, table))
