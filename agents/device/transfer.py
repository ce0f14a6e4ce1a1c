"""One block of host memory, one copy: how numbers reach a device and come back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class HostBlock:
    """Host memory of a tensor's shape, for copies that the device makes by itself: pinned if that is on CUDA.

    Copies are queued behind the work that the device still has; the memory is not written to before they are made.

    :param like: a tensor on the device: of this shape and type is the block.
    """

    def __init__(self, like: Tensor):
        self._device = like.device
        self._copied = torch.cuda.Event() if like.is_cuda else None
        self._memory = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)

    def writable(self) -> Tensor:
        """Return the memory, once the last copy from it is made."""
        self._wait()
        return self._memory

    def send(self, target: Tensor) -> None:
        """Queue a copy to the device; nobody waits."""
        target.copy_(self._memory, non_blocking=True)
        self._record()

    def fetch(self, source: Tensor) -> np.ndarray:
        """Wait for the device and return what it has there: an array of its own."""
        self._memory.copy_(source, non_blocking=True)
        self._record()
        self._wait()
        return self._memory.numpy().copy()

    def _record(self) -> None:
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))

    def _wait(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
