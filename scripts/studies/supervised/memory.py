"""How much memory a stretch of torch code takes."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """A context in which the memory of new tensors is counted: `peak` is the most that they held at once, in bytes.

    What was there before is not counted, nor what numpy makes. No number changes; each operation takes longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak = 0, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages that are new in what it returns."""
        before = [storage for storage in map(_storage, _tensors((args, kwargs))) if storage not in self._known]
        made = func(*args, **(kwargs or {}))
        for storage in map(_storage, _tensors(made)):
            if storage not in self._known and not any(storage is old for old in before):
                self._known.add(storage)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.held)
        return made

    def _free(self, size: int) -> None:
        self.held -= size


def _tensors(found: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
