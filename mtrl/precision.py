"""The precision of float32 products on CUDA, for the length of a block: the setting belongs to the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, CUDA multiplies float32 matrices in TF32 (10 bits of mantissa, summed in float32), or in full.

    Afterwards everything is as it was. Nothing changes on a CPU. Not for threads that multiply at the same time.
    """
    matmul = torch.backends.cuda.matmul
    # newer torch refuses to tell the setting's old name once somebody has used the new one
    new = hasattr(matmul, "fp32_precision")
    name = "fp32_precision" if new else "allow_tf32"
    value: str | bool = ("tf32" if tf32 else "ieee") if new else tf32
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
