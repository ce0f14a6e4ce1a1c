"""PCGrad's projections as one Triton kernel.

Only `mtrl.aggregators.projection` imports this module, once a CUDA tensor has come. Tensors on the CPU are for Triton's
interpreter (`TRITON_INTERPRET=1`), in which the tests run the kernel.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


@triton.jit
@no_type_check  # Triton reads the source and its module's names: a checker around the function would hide both
def _project(gramian, orders, coefficients, tasks, visits, g_row, g_column, o_row, o_column, padded: tl.constexpr):
    """One program per row i: g_i' in the original gradients, padded to a power of two, through all its visits."""
    i = tl.program_id(0)
    columns = tl.arange(0, padded)
    inside = columns < tasks
    row = tl.where(columns == i, 1.0, 0.0).to(tl.float64)
    for visit in range(visits):
        j = tl.load(orders + i * o_row + visit * o_column)
        products = tl.load(gramian + j * g_row + columns * g_column, mask=inside, other=0.0).to(tl.float64)
        norm2 = tl.load(gramian + j * (g_row + g_column)).to(tl.float64)
        per_unit = tl.where(norm2 > 0, products / norm2, 0.0)  # a zero g_j projects nothing
        conflict = tl.sum(row * per_unit, axis=0)
        conflict = tl.where(conflict > 0, 0.0, conflict)  # not a minimum, which would lose a NaN
        row = tl.where(columns == j, row - conflict, row)
    tl.store(coefficients + i * tasks + columns, row, mask=inside)


def project_conflicts(
    gramian: Float[Tensor, "tasks tasks"], orders: Int[Tensor, "tasks visits"]
) -> Float[Tensor, "tasks tasks"]:
    """Row i expresses the projected g_i in the original gradients: all visits in one launch, in float64.

    Each program holds a row of T numbers and reads a row of the Gramian per visit, from a cache that holds all of it.
    """
    tasks, visits = orders.shape
    coefficients: Tensor = gramian.new_empty(tasks, tasks)
    strides, padded = (*gramian.stride(), *orders.stride()), triton.next_power_of_2(tasks)
    launch: Any = _project[(tasks,)]
    with torch.cuda.device_of(gramian):
        launch(gramian, orders, coefficients, tasks, visits, *strides, padded=padded, num_warps=1)
    return coefficients
