"""The parameters that a caller names, and their `.grad`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor, nn

# with their names, too, as optimizers take them
Parameters = Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]]
KEEP = "keep a list of them, as a generator such as net.parameters() is used up after one call"
NO_PARAMETER = (
    "expected at least one shared parameter that is trained, found none: let one require a gradient if all are frozen, "
    f"and {KEEP}"
)


def parameters_in(given: Any) -> list[nn.Parameter]:
    """Return the parameters alone, of an iterable of parameters or of (name, parameter).

    :raises TypeError: for anything else.
    :raises ValueError: for an iterator that gives nothing: a generator such as net.parameters() is used up by one call.
    """
    used_up = isinstance(given, GeneratorType) and given.gi_frame is None
    if isinstance(given, nn.Module | Tensor | Mapping) or not isinstance(given, Iterable):
        instead = (
            ".parameters()" if isinstance(given, nn.Module) else ".values()" if isinstance(given, Mapping) else "[it]"
        )
        raise TypeError(f"expected a list of parameters, found one {type(given).__name__}; give {instead}")
    parameters = [each[1] if isinstance(each, tuple) and len(each) == 2 else each for each in given]
    if used_up or (not parameters and isinstance(given, Iterator) and not isinstance(given, GeneratorType)):
        raise ValueError("expected parameters, found an iterator that is used up; " + KEEP)
    for each in parameters:
        if not isinstance(each, Tensor):
            raise TypeError(f"expected a list of parameters, found a {type(each).__name__} in it; give .parameters()")
    return parameters


def trained_and_frozen(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that require a gradient, and those that do not, each once."""
    each = list(dict.fromkeys(parameters))
    return [p for p in each if p.requires_grad], [p for p in each if not p.requires_grad]


def check_writable(parameters: Sequence[nn.Parameter]) -> None:
    """Refuse what has no `.grad` of its own, and hooks that would not run.

    :raises ValueError: what was found, and what to do.
    """
    if not all(parameter.is_leaf for parameter in parameters):
        raise ValueError(
            "expected parameters, found what was computed of others, whose .grad no optimizer sees: name those, as "
            "layer.parametrizations.weight.original0 where a weight is parametrized"
        )
    if any(parameter._post_accumulate_grad_hooks for parameter in parameters):
        raise ValueError("a parameter has a hook for after its gradient's accumulation, which would not run; remove it")


def write_gradients(
    parameters: Sequence[nn.Parameter], updates: Sequence[Tensor | None], accumulate: bool = False
) -> None:
    """Set `.grad` of each parameter, in its precision and layout, or add to it; None: there is none."""
    given: set[int] = set()
    for parameter, update in zip(parameters, updates, strict=True):
        if update is not None:
            update = _own(update.detach().to(parameter.dtype), parameter, given)
        parameter.grad = _sum(parameter.grad, update) if accumulate else update


def _own(update: Tensor, parameter: Tensor, given: set[int]) -> Tensor:
    """Return a `.grad` that others may write into, in the parameter's layout, as an ordinary backward pass does.

    autograd can give one tensor for several parameters (of a + b), or one number stretched (of a.sum()).

    :param given: where those before lie in memory; this one is added.
    """
    if update.layout != torch.strided:
        return update
    if update.stride() != parameter.stride() or update.data_ptr() in given:
        update = torch.empty_like(parameter, dtype=update.dtype).copy_(update)
    given.add(update.data_ptr())
    return update


def _sum(before: Tensor | None, update: Tensor | None) -> Tensor | None:
    return update if before is None else before if update is None else before + update
