"""Small agents, and what many tests do with one."""

import contextlib
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import KVWriter, Logger
from torch.utils._python_dispatch import TorchDispatchMode

import envs.toy
from agents import MTSAC
from scripts.common import command

SMALL = {"actor_width": 16, "actor_depth": 2, "critic_width": 16, "critic_depth": 2}
EVERYTHING = {  # the options of value learning at once
    "return_scale": "brc",
    "n_steps": 3,
    "high_reward_fraction": 0.25,
    "high_reward_candidates": 5,
    "policy_delay": 2,
    "noise_hold": 4,
    "critic_reduction": "mean",
    "ent_coef": "auto_0.1",
    "ent_coef_min": 0.01,
    "reset_at": (30, 55),
    "policy_kwargs": {
        **SMALL,
        "critic_torso": "bronet",
        "critic_head": "hl-gauss",
        "bins": 21,
        "conditioning": "embedding",
        "multi_head": True,
        "n_critics": 3,
        "weight_decay": 0.01,
    },
}


def cuda(test):
    """Marks a test that needs a CUDA device; skipped without one."""
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


def toy_agent(env=None, aggregator="pcgrad", kind=MTSAC, **settings):
    """An agent on two toy tasks that learns from its 20th step per task on."""
    env = env or envs.toy.make(num_tasks=2, seed=0)
    defaults = {"batch_size": 8, "learning_starts": 40, "buffer_size": 120, "seed": 0, "device": "cpu"}
    kwargs = {"policy_kwargs": SMALL, "log_every": 1_000_000, **defaults, **settings}
    return kind("MlpPolicy", env, aggregator, **kwargs)


def tensors(state):
    """All tensors and arrays of a nested state, in order, as arrays."""
    if isinstance(state, dict):
        return [t for value in state.values() for t in tensors(value)]
    if isinstance(state, list | tuple):
        return [t for value in state for t in tensors(value)]
    if hasattr(state, "detach"):
        return [state.detach().numpy()]
    return [state] if hasattr(state, "shape") else []


def assert_same_tensors(first, second):
    """Bit for bit, in two nested states of an agent."""
    pairs = list(zip(tensors(first), tensors(second), strict=True))
    assert len(pairs) > 50
    assert all(np.array_equal(a, b) for a, b in pairs)


class Rows(KVWriter):
    """Keeps every row that is logged."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append({"step": step, **key_values})

    def close(self):
        pass


def logged(agent, steps_per_task, **learn):
    """The rows that an agent logs while it learns."""
    rows = Rows()
    agent.set_logger(Logger(None, [rows]))
    agent.learn(agent.num_tasks * steps_per_task, **learn)
    return rows.rows


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


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def exit_code(monkeypatch, main, argv):
    """What a command ends with, as it is called from a shell."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with pytest.raises(SystemExit) as end:
        command.run(main)
    return end.value.code
