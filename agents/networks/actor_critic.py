"""The task-conditioned actor and critics: one network for all tasks, told by a one-hot which task a row belongs to."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import mtrl
from agents.networks.form import Form
from agents.networks.layers import TaskHeads, make_linear
from agents.networks.values import ScalarValue

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class MultiTaskNetwork(nn.Module):
    """What actor and critic share: how the task enters, the heads, and which parameters take part in surgery.

    The last T of the observation's columns are a one-hot of the task.

    :param others: further input columns, beside the observation.
    :param num_outputs: of the head.
    :param num_members: N networks side by side; None: one, without a dimension for it.
    """

    optimizer: torch.optim.Optimizer
    precision: str = "float32"  # MultiTaskPolicy sets it

    def __init__(self, form: Form, obs_dim: int, others: int, num_outputs: int, num_members: int | None = None):
        super().__init__()
        self.num_tasks, self.multi_head = form.num_tasks, form.multi_head
        self._obs_dim, self._others = obs_dim, others
        plain = obs_dim - form.num_tasks + others  # columns without the one-hot
        # saved agents have the parameters of any conditioning under this name
        self.embedding = form.conditioning(plain, form.num_tasks, num_members, **form.conditioning_options)
        self.torso = form.torso(self.embedding.inputs, **form.torso_options)
        self.embedding.check(self.torso)
        self.head: nn.Module
        if form.multi_head:
            members = self.embedding.inputs.members
            self.head = TaskHeads(form.num_tasks, self.torso.out_features, num_outputs, members)
        else:
            self.head = make_linear(num_members, self.torso.out_features, num_outputs)

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters that belong to one task each (its embedding, input column, head ...): never projected.

        They are what the modules within name in a method `task_parameters()`.
        """
        parts: list[Any] = [module for module in self.modules() if module is not self]
        named = [part.task_parameters() for part in parts if hasattr(part, "task_parameters")]
        return list(dict.fromkeys(parameter for parameters in named for parameter in parameters))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that all tasks share: the ones that surgery sees, unless they are frozen."""
        own = {id(p) for p in self.task_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    @property
    def sets_back(self) -> bool:
        """Whether single tasks can begin anew in it; a torso of a user's own need not say so."""
        return getattr(self.torso, "sets_back", False)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the modules within bring their parameters back to where they belong, after a step of the optimizer."""
        parts: list[Any] = [module for module in self.modules() if module is not self]
        for part in parts:
            if hasattr(part, "after_step"):
                part.after_step()

    def check_block_gradients(self, name: str, batches: int = 1) -> None:
        """Refuse a torso from which one backward pass does not yield the gradient of every task, before it is trained.

        :param name: "actor" or "critic", for the message.
        :param batches: as many gradients of each task, of rows that follow each other.
        :raises ValueError: naming the layer, and what to do.
        """
        parameter = next(self.parameters())
        blocks = self.num_tasks * batches
        one_hot = torch.eye(self.num_tasks, dtype=parameter.dtype, device=parameter.device)
        task = one_hot.repeat_interleave(2 * batches, 0)
        observations = torch.cat([task.new_zeros(len(task), self._obs_dim - self.num_tasks), task], 1)
        others = [task.new_zeros(len(task), self._others)] if self._others else []
        try:
            with mtrl.record(self, blocks, self.task_parameters()) as tape:
                outputs = self._outputs(observations, *others, blocks=True)
            losses = outputs.unflatten(-2, (blocks, -1)).square().sum((-1, -2))
            tape.check_uses(losses.reshape(-1, blocks).sum(0))
            tape.task_gradients(torch.autograd.grad(losses.sum(), tape.outputs, allow_unused=True))
        except (TypeError, ValueError, RuntimeError) as error:
            if batches > 1:  # with one it does: that was looked at before
                raise ValueError(
                    f"{name}'s aggregator: expected one that takes one batch of each task, as a layer of the {name} "
                    f"sees each task once, and not once in each of {batches} independent batches. Take another method, "
                    f"or another network. Found: {error}"
                ) from error
            raise ValueError(
                f"{type(self.torso).__name__} as {name}'s torso: {error}. A torso has forward(features, "
                "task), it or its layers name the parameters of single tasks in task_parameters(), and a layer with "
                "others has a method block_gradients; agents.networks.layers.one_by_one is one for any layer, slower "
                "(see docs/architectures.md)."
            ) from error

    def _outputs(self, observations: Tensor, *others: Tensor, blocks: bool) -> Tensor:
        """Return what the head makes of the hidden layers; only these multiply in less precision, and only in training.

        The head is a thousandth of the work, and its outputs (values, log-probabilities) need every digit.
        """
        task = None if blocks else observations[:, -self.num_tasks :]
        features = self.embedding(observations, *others)
        with torch.autocast(features.device.type, torch.bfloat16, enabled=blocks and self.precision == "bfloat16"):
            hidden = self.torso(features, task)
        hidden = hidden.to(features.dtype)
        return self.head(hidden, task) if self.multi_head else self.head(hidden)


class Actor(MultiTaskNetwork):
    """Acts in (-1, 1); the last T of the D observation columns are a one-hot of the task."""

    def forward(
        self, observations: Float[Tensor, "rows obs"], deterministic: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """Actions (rows, A) for rows in any order.

        :param noise: standard normal numbers (rows, A) to explore with instead of fresh ones.
        """
        raise NotImplementedError


class MultiTaskActor(Actor):
    """A tanh-squashed diagonal Gaussian policy; the last T of the D observation columns are a one-hot of the task.

    :param log_std_min: lower limit of the logarithm of the standard deviation, before the tanh.
    :param log_std_max: its upper limit.
    """

    def __init__(self, form: Form, obs_dim: int, action_dim: int, log_std_min: float = -20.0, log_std_max: float = 2.0):
        super().__init__(form, obs_dim, 0, 2 * action_dim)
        self._log_std_limits = log_std_min, log_std_max

    def _distribution(self, observations: Tensor, blocks: bool) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(observations, blocks=blocks)
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(*self._log_std_limits)

    def forward(
        self, observations: Float[Tensor, "rows obs"], deterministic: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """Actions (rows, A) in (-1, 1), for rows in any order; `noise` as in `action_log_prob`."""
        mean, log_std = self._distribution(observations, blocks=False)
        if deterministic:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * (torch.randn_like(mean) if noise is None else noise))

    def action_log_prob(
        self, observations: Float[Tensor, "rows obs"], blocks: bool = False, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparametrised actions (rows, A) and their log-probabilities (rows,).

        The constant 1e-6 in the squashing correction is Stable-Baselines3's.

        :param blocks: the rows lie in T equal task blocks.
        :param noise: standard normal numbers (rows, A) to use instead of fresh ones.
        """
        mean, log_std = self._distribution(observations, blocks)
        noise = torch.randn_like(mean) if noise is None else noise
        actions = torch.tanh(mean + log_std.exp() * noise)
        log_prob = -0.5 * noise.square() - log_std - LOG_SQRT_2PI - torch.log(1 - actions.square() + 1e-6)
        return actions, log_prob.sum(-1)


class MultiTaskCritic(MultiTaskNetwork):
    """N state-action values side by side: (rows, D) and (rows, A) -> (N, rows). All N form one parameter vector.

    :param values: what the outputs mean.
    """

    def __init__(self, form: Form, obs_dim: int, action_dim: int, n_critics: int, values: ScalarValue):
        super().__init__(form, obs_dim, action_dim, values.num_outputs, n_critics)
        self.n_critics = n_critics
        self.values = values
        with torch.no_grad():
            self.head.bias.add_(values.initial_outputs())  # type: ignore[operator]

    def outputs(
        self, observations: Tensor, actions: Tensor, blocks: bool = False
    ) -> Float[Tensor, "critics rows outputs"]:
        """Return what `values` turns into Q values.

        :param blocks: the rows lie in T equal task blocks; else the one-hot picks the head.
        """
        return self._outputs(observations, actions, blocks=blocks)

    def forward(self, observations: Tensor, actions: Tensor, blocks: bool = False) -> Float[Tensor, "critics rows"]:
        """Q values."""
        return self.values.value(self.outputs(observations, actions, blocks))
