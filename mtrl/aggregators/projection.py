"""PCGrad's recursion on the Gramian: in torch, visit by visit, or on CUDA in one kernel."""

import functools
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Projection = Callable[[Tensor, Tensor], Tensor]


def project_conflicts(
    gramian: Float[Tensor, "tasks tasks"], orders: Int[Tensor, "tasks visits"]
) -> Float[Tensor, "tasks tasks"]:
    """Row i expresses the projected g_i in the original gradients: the same numbers, up to rounding, on any device.

    On CUDA a Triton kernel takes all visits in one launch. It has no derivative: a Gramian that asks for one
    is left to torch.
    """
    kernel = _kernel(gramian.device) if gramian.is_cuda and not gramian.requires_grad else None
    return kernel(gramian, orders) if kernel else visit_by_visit(gramian, orders)


def visit_by_visit(
    gramian: Float[Tensor, "tasks tasks"], orders: Int[Tensor, "tasks visits"]
) -> Float[Tensor, "tasks tasks"]:
    """Project in torch, the reference: all rows move at once, one visit at a time."""
    norms2 = gramian.diagonal()[:, None]
    per_unit = torch.where(norms2 > 0, gramian / norms2, 0.0)  # row j: g_j / |g_j|^2; a zero g_j projects nothing
    visited = per_unit[orders.T]  # (visits, tasks, tasks), gathered in one go
    coefficients = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    for others, rows in zip(orders.T.unsqueeze(-1), visited, strict=True):
        conflict = torch.linalg.vecdot(coefficients, rows).clamp(max=0)  # (g_i' . g_j) / |g_j|^2 where negative
        coefficients.scatter_add_(1, others, -conflict[:, None])
    return coefficients


@functools.cache
def _kernel(device: torch.device) -> Projection | None:
    """Return the kernel, if it can be built for the device; else None, and a warning says why and what that costs."""
    try:
        from mtrl.kernels import project_conflicts as kernel  # here, as Triton need not be installed

        gramian = torch.eye(2, dtype=torch.float64, device=device)
        kernel(gramian, torch.arange(2, device=device).flip(0)[:, None])  # compiles; nobody waits for the answer
    except Exception as error:  # no Triton, no C compiler, an old device ...: whatever it is, the reference works
        warnings.warn(
            f"PCGrad's projections run as several small kernels per task, slower and otherwise the same, because "
            f"Triton's could not be built: {type(error).__name__}: {error}. Triton comes with torch for CUDA on Linux "
            "and needs a C compiler (gcc).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return kernel
