"""What a torso is: the hidden layers of an actor or of critics, which may treat each task in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from agents.networks.layers import EnsembleLayerNorm, EnsembleLinear, make_layer_norm, make_linear


@dataclass(frozen=True)
class Inputs:
    """What a torso is built for.

    :param features: columns that it sees.
    :param num_tasks: T.
    :param num_members: N networks side by side, so that features are (N, rows, columns) and layers have N members;
        None: one network, without a dimension for it.
    :param wrap: what a conditioning does to the first layer.
    """

    features: int
    num_tasks: int
    num_members: int | None = None
    wrap: Callable[[nn.Linear | EnsembleLinear], nn.Module] | None = None

    @property
    def members(self) -> tuple[int, ...]:
        """The dimension of the members: (N,), or () for one network."""
        return () if self.num_members is None else (self.num_members,)

    def linear(self, in_features: int, out_features: int) -> nn.Linear | EnsembleLinear:
        """Make a linear layer, with N members if there are any."""
        return make_linear(self.num_members, in_features, out_features)

    def layer_norm(self, features: int) -> nn.LayerNorm | EnsembleLayerNorm:
        """Make a LayerNorm, with N members if there are any."""
        return make_layer_norm(self.num_members, features)

    def first(self, layer: nn.Linear | EnsembleLinear) -> nn.Module:
        """Return the layer that sees the features, as the conditioning has it: `inputs.first(inputs.linear(...))`."""
        return layer if self.wrap is None else self.wrap(layer)


class Torso(nn.Module):
    """Hidden layers: features (*members, rows, columns) to (*members, rows, out_features).

    The constructor takes `Inputs`; each further argument is a setting of the networks: `width` is the actor's
    `actor_width` and the critics' `critic_width`.
    """

    sets_back: ClassVar[bool] = False  # it has a `set_back`, so that single tasks can begin anew
    takes_task: ClassVar[bool] = False  # its features come without the task, which it gets from `task` alone
    residual: ClassVar[bool] = False  # its depth counts blocks of two layers, with LayerNorm
    out_features: int

    def forward(
        self, features: Float[Tensor, "*members rows columns"], task: Float[Tensor, "rows tasks"] | None
    ) -> Float[Tensor, "*members rows out"]:
        """Return what the heads see.

        :param task: the one-hot of each row's task; None if the rows lie in T equal task blocks (training).
        """
        raise NotImplementedError

    def task_parameters(self) -> list[nn.Parameter]:
        """Parameters of one task each, which take no part in surgery, besides those that its layers name so."""
        return []

    def set_back(self, tasks: Bool[Tensor, " tasks"], shares: Float[Tensor, "tasks tasks"]) -> None:
        """Let these tasks begin anew, in place, from a mean of the others with the shares in their rows."""

    def after_step(self) -> None:
        """Bring parameters back to where they belong, in place, after a step of the optimizer; any layer may do so."""

    @classmethod
    def as_mlp(cls, depth: int) -> dict[str, Any]:
        """`depth` and `layer_norm` of the plain layers that come nearest, for what knows no others: plain SAC."""
        return {"depth": 1 + 2 * depth, "layer_norm": True} if cls.residual else {}


class Stack(nn.Sequential, Torso):
    """Layers one after another; the task is in the features, or does not matter."""

    def forward(self, features: Tensor, task: Tensor | None = None) -> Tensor:
        """Return what the last layer gives."""
        return super().forward(features)
