"""Small agents for tests."""

import contextlib
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import envs.toy
from agents import MTSAC

SMALL = {"actor_width": 16, "actor_depth": 2, "critic_width": 16, "critic_depth": 2}


def cuda(test):
    """Marks a test that needs a CUDA device; skipped without one."""
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


def toy_agent(env=None, aggregator="pcgrad", **settings):
    """An agent on two toy tasks that learns from its 20th step per task on."""
    env = env or envs.toy.make(num_tasks=2, seed=0)
    defaults = {"batch_size": 8, "learning_starts": 40, "buffer_size": 120, "seed": 0, "device": "cpu"}
    kwargs = {"policy_kwargs": SMALL, "log_every": 1_000_000, **defaults, **settings}
    return MTSAC("MultiTaskMlpPolicy", env, aggregator, **kwargs)


def tensors(state):
    """All tensors and arrays of a nested state, in order, as arrays."""
    if isinstance(state, dict):
        return [t for value in state.values() for t in tensors(value)]
    if isinstance(state, list | tuple):
        return [t for value in state for t in tensors(value)]
    if hasattr(state, "detach"):
        return [state.detach().numpy()]
    return [state] if hasattr(state, "shape") else []


class NoSynchronisation(TorchDispatchMode):
    """Fail on operations that make a device wait for the host, and on numbers that travel between the two.

    On a CPU nothing travels: there it is the call that fails, and the tensor that is made of the host's numbers.
    """

    forbidden = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "lift_fresh")

    def __enter__(self):
        self.patches = contextlib.ExitStack()
        for name in ("cpu", "tolist"):
            refusal = AssertionError(f"Tensor.{name} synchronises")
            self.patches.enter_context(mock.patch.object(torch.Tensor, name, side_effect=refusal))
        return super().__enter__()

    def __exit__(self, *args):
        self.patches.close()
        return super().__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.__name__.split(".")[0] not in self.forbidden, f"{func} synchronises"
        masks = args[1] if func.__name__ == "index.Tensor" else []
        assert not any(mask is not None and mask.dtype == torch.bool for mask in masks), f"{func} synchronises"
        return func(*args, **(kwargs or {}))
