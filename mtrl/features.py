"""Surgery on the gradients of a shared representation: what lies between the shared parameters and the losses."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from mtrl.graph import below
from mtrl.tape import Tape


class Features(NamedTuple):
    """The representation, as the tensors of the graph through which every shared parameter reaches the losses."""

    tensors: list[Tensor]

    @classmethod
    def of(
        cls, features: Tensor | Sequence[Tensor], losses: Tensor, shared: Sequence[nn.Parameter], tape: Tape | None
    ) -> Self:
        """Check that nothing gets past the representation.

        :raises TypeError: unless features are tensors.
        :raises ValueError: for a tape, and for features that do not lie between the shared parameters and the losses.
        """
        tensors = [features] if isinstance(features, Tensor) else list(features)
        if tape is not None:
            raise ValueError(
                "expected features with parameters=, found a tape: in task blocks no two tasks share a row"
            )
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors) or "none"
            raise TypeError(f"expected features as a tensor or several; found {kinds}")
        if not all(tensor.requires_grad for tensor in tensors):
            raise ValueError("expected features that depend on parameters, found constants; give those not detached")
        edges = [get_gradient_edge(tensor) for tensor in tensors]
        met, past = below([get_gradient_edge(losses)], edges)
        if len(met) < len(edges):
            raise ValueError(
                f"the losses depend on {len(met)} of {len(edges)} features; expected the very tensors that the heads "
                "were given, each once, and not copies of them or what a view of them was taken from"
            )
        if used := sum(id(parameter) in past for parameter in shared):
            raise ValueError(
                f"the losses depend on {used} of the shared parameters past the features; name those as "
                "task_parameters, or give the tensors that all shared parameters go through"
            )
        if any(below([edge], edges)[0] for edge in edges):
            raise ValueError("one of the features was made of another; give those that the losses use last")
        return cls(tensors)

    def back_to(self, shared: Sequence[nn.Parameter], updates: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Take the aggregate of the features to the shared parameters: one ordinary backward pass.

        :raises RuntimeError: if the features depend on none of them.
        """
        reached = [(z, dz.to(z.dtype)) for z, dz in zip(self.tensors, updates, strict=True) if dz is not None]
        outputs, gradients = zip(*reached, strict=True)
        found = torch.autograd.grad(outputs, shared, gradients, allow_unused=True)
        if all(gradient is None for gradient in found):
            raise RuntimeError("the features depend on none of the shared parameters; name those of what made them")
        return list(found)
