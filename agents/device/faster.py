"""Operations in forms that Inductor fuses with others, or that it makes faster code of than torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

# Of a Gramian on a CPU: the tasks for which it is faster than a matrix product, and columns that stay in the first
# cache between the products of all pairs.
TASKS, COLUMNS = range(5, 17), 256


def faster_if_compiled(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[], Any] | None:
    """Return what to call in place of torch's operation of this name in an update that is compiled; None: nothing."""
    if name in ("_fused_adam_", "_fused_adamw_"):
        counts = [float(step) for step in args[-1]]  # asked here, as no graph may ask
        return partial(by_count, counts, *args, **kwargs, decoupled=name == "_fused_adamw_")
    if name == "bmm" and _is_small_gramian(*args):
        return partial(small_gramian, args[0])
    return None


def _is_small_gramian(first: Tensor, second: Tensor) -> bool:
    other = first.mT
    same = first.data_ptr() == second.data_ptr() and (other.shape, other.stride()) == (second.shape, second.stride())
    small = first.shape[1] in TASKS and first.shape[2] % COLUMNS == 0 and first.numel() > 0
    return same and small and first.device.type == "cpu" and first.dtype == torch.float32


def small_gramian(pieces: Float32[Tensor, "pieces tasks columns"]) -> Float32[Tensor, "pieces tasks tasks"]:
    """J J^T of each piece: the products of g_i and g_{i+s} for each shift s of the tasks, one loop over all shifts.

    A matrix product takes two to three times as long: it forms each of them twice, and copies J before.
    """
    count, tasks, _ = pieces.shape
    blocks = pieces.unflatten(2, (-1, COLUMNS)).transpose(1, 2).flatten(0, 1)
    shifts = [(blocks * blocks.roll(-shift, 1)).sum(2) for shift in range(tasks // 2 + 1)]
    products = torch.stack(shifts, 1).unflatten(0, (count, -1)).sum(1)
    i = torch.arange(tasks, device=pieces.device)[:, None]
    shift = (i.mT - i) % tasks  # from i on to j, or else from j on to i
    return products[:, torch.minimum(shift, tasks - shift), torch.where(shift <= tasks // 2, i, i.mT)]


def by_count(counts: Sequence[float], *lists: Sequence[Tensor], **options: Any) -> None:
    """Call `fused_adam` for all parameters that have made as many steps: those that were frozen at first made fewer."""
    for count in dict.fromkeys(counts):
        among = [number for number, each in enumerate(counts) if each == count]
        fused_adam(*([tensors[number] for number in among] if tensors else [] for tensors in lists), **options)


def fused_adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    largest: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    decoupled: bool,
    **scaling: Tensor | None,
) -> None:
    """torch's fused Adam, or AdamW (`decoupled`), in operations that Inductor can fuse with others.

    :raises NotImplementedError: for the options that no setting of ours has.
    """
    if amsgrad or maximize or any(each is not None for each in scaling.values()):
        raise NotImplementedError("Adam with amsgrad, maximize or scaled gradients")
    count = steps[0].double()  # as in torch's kernel: 1 - beta2^n has few digits left in float32
    rate, root = lr / (1 - beta1**count), (1 - beta2**count).sqrt()
    for parameter, gradient, mean, square in zip(parameters, gradients, means, squares, strict=True):
        if weight_decay and decoupled:
            parameter.mul_(1 - lr * weight_decay)
        elif weight_decay:  # the gradient of an L2 penalty
            gradient = gradient + weight_decay * parameter
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.sub_(rate * mean / (square.sqrt() / root + eps))
