"""PCGrad's recursion on the Gramian: in torch, visit by visit; in Python or numpy on the CPU, in one kernel on CUDA."""

import functools
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Projection = Callable[[Tensor, Tensor], Tensor]
FEW = 10  # tasks for which Python's numbers take less time than numpy's calls, and half of it where caches are cold


def project_conflicts(
    gramian: Float[Tensor, "tasks tasks"], orders: Int[Tensor, "tasks visits"]
) -> Float[Tensor, "tasks tasks"]:
    """Row i expresses the projected g_i in the original gradients: the same numbers, up to rounding, on any device.

    On the CPU Python or numpy takes the visits, whose small operations cost a fifth of torch's; on CUDA a Triton kernel
    takes all in one launch. They have no derivative: a Gramian that asks for one is left to torch.
    """
    kernel: Projection | None = None
    if not gramian.requires_grad:
        kernel = _kernel(gramian.device) if gramian.is_cuda else _OPERATION if gramian.device.type == "cpu" else None
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
        coefficients = coefficients.scatter_add(1, others, -conflict[:, None])  # not in place: it has a derivative
    return coefficients


def _on_cpu(gramian: Tensor, orders: Tensor) -> Tensor:
    """Keep the products g_i' . g_j beside the coefficients: a visit then reads one of each row, and moves them."""
    way = _one_by_one if len(gramian) <= FEW else _all_rows
    return way(gramian, orders)


def _one_by_one(gramian: Tensor, orders: Tensor) -> Tensor:
    """Move each row by itself, number by number: few calls, each of which takes long where caches are cold."""
    known, coefficients = gramian.numpy().tolist(), []
    if not math.isfinite(sum(map(sum, known))):
        return visit_by_visit(gramian, orders)  # where NaN and infinity go
    for i, order in enumerate(orders.numpy().tolist()):
        products, row = known[i], [float(i == j) for j in range(len(known))]
        for j in order:
            if products[j] < 0 < known[j][j]:  # a zero g_j projects nothing
                conflict = products[j] / known[j][j]
                row[j] -= conflict
                products = [mine - conflict * other for mine, other in zip(products, known[j], strict=True)]
        coefficients.append(row)
    return torch.tensor(coefficients, dtype=gramian.dtype)


def _all_rows(gramian: Tensor, orders: Tensor) -> Tensor:
    """Move all rows at once, one visit at a time."""
    known, visits = gramian.numpy().astype(np.float64), orders.numpy().T
    if not np.isfinite(known).all():
        return visit_by_visit(gramian, orders)  # where NaN and infinity go
    tasks, lengths2 = len(known), known.diagonal()
    alive = lengths2 > 0  # a zero g_j projects nothing
    against = np.where(alive, known, 0.0)
    products, change = against.copy(), np.empty_like(against)
    divisors, places = np.where(alive, lengths2, 1.0)[visits], visits + np.arange(tasks) * tasks
    conflicts = np.empty_like(divisors)
    for others, place, divisor, conflict in zip(visits, places, divisors, conflicts, strict=True):
        products.take(place, out=conflict, mode="clip")
        np.divide(conflict, divisor, out=conflict)
        np.minimum(conflict, 0.0, out=conflict)  # (g_i' . g_j) / |g_j|^2 where negative
        against.take(others, axis=0, out=change, mode="clip")
        np.multiply(change, conflict[:, None], out=change)
        np.subtract(products, change, out=products)
    coefficients = np.eye(tasks)
    np.subtract.at(coefficients.reshape(-1), places, conflicts)
    return torch.from_numpy(coefficients).to(gramian.dtype)


# As an operation of torch, so that a graph can hold what happens outside of torch.
_OPERATIONS = torch.library.Library("mtrl_surgery", "FRAGMENT")
_OPERATIONS.define("project(Tensor gramian, Tensor orders) -> Tensor")
_OPERATIONS.impl("project", _on_cpu, "CPU")
_OPERATIONS.impl("project", lambda gramian, orders: gramian.new_empty(gramian.shape), "Meta")
_OPERATIONS.impl("project", lambda gramian, orders: _triton()(gramian, orders), "CUDA")
_OPERATION: Projection = torch.ops.mtrl_surgery.project.default


@functools.cache
def _kernel(device: torch.device) -> Projection | None:
    """Return the kernel, if it can be built for the device; else None, and a warning says why and what that costs."""
    try:
        gramian = torch.eye(2, dtype=torch.float64, device=device)
        _triton()(gramian, torch.arange(2, device=device).flip(0)[:, None])  # compiles; nobody waits for the answer
    except Exception as error:  # no Triton, no C compiler, an old device ...: whatever it is, the reference works
        warnings.warn(
            f"PCGrad's projections run as several small kernels per task, slower and otherwise the same, because "
            f"Triton's could not be built: {type(error).__name__}: {error}. Triton comes with torch for CUDA on Linux "
            "and needs a C compiler (gcc).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return _OPERATION


def _triton() -> Projection:
    from mtrl.kernels import project_conflicts  # here, as Triton need not be installed

    return project_conflicts
