"""CUDA graphs acted on the CPU: the operations of one run are recorded, then repeated on the same memory.

As on the device, a capture leaves no trace in any tensor or generator, and a replay runs no Python of the agent's:
whatever the update read from Python during the capture stays as it was then.
"""

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from agents.device.captured import CapturedUpdates
from agents.saving.agent_file import training_state
from agents.saving.checkpoint import rng_state
from tests.helpers import NoSynchronisation, assert_same_tensors, toy_agent

# The first update follows step 20 per task and the buffer wraps at step 28; two target patterns; measurements.
SETTINGS = {
    "buffer_size": 28,
    "gradient_steps": 2,
    "target_update_interval": 2,
    "learning_rate": "linear:1e-3",
    "max_grad_norm": 1.0,
    "log_conflicts": 17,
}
STEPS = 36


class TracedGraphs:
    """Takes the place of `agents.device.graphs.CudaGraphs`: a capture breaks off at what makes a device wait.

    :param host: objects, each with names of attributes that an update may not read: gone during a capture.
    """

    def __init__(self, *host):
        self.host = host
        self.captures, self.replays = 0, 0
        self.broken = 0

    def capture(self, update, generators):
        self.captures += 1
        tape = _Tape([torch.default_generator, *generators])
        hidden = [(vars(owner), name, vars(owner).pop(name)) for owner, *names in self.host for name in names]
        no_generator = mock.patch("torch.Generator", side_effect=AssertionError("a generator made in a capture"))
        try:
            with no_generator, NoSynchronisation(), tape:
                update()
        except AssertionError as error:
            if "synchronises" not in str(error):
                raise
            self.broken += 1
            raise RuntimeError(f"operation not permitted when stream is capturing: {error}") from error
        finally:
            tape.undo()
            for attributes, name, value in hidden:
                attributes[name] = value
        return _Graph(self, tape)


class _Graph:
    def __init__(self, graphs, tape):
        self.graphs, self.tape, self.broken = graphs, tape, graphs.broken

    @property
    def stale(self):
        return self.graphs.broken != self.broken

    def __call__(self):
        if self.stale:  # as CUDA does, whose generators have new states since
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.graphs.replays += 1
        self.tape.replay()


class _Tape(TorchDispatchMode):
    def __init__(self, generators):
        super().__init__()
        self.generators = [(generator, generator.get_state()) for generator in generators]
        self.operations, self.overwritten = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:  # in a new wrapper: told by its state
            states = [known.get_state().numpy().tobytes() for known, _ in self.generators]
            assert kwargs["generator"].get_state().numpy().tobytes() in states, f"{func}: generator not registered"
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.overwritten += [(tensor.detach(), tensor.clone()) for tensor in tree_leaves(value)]
        before = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))  # memory and shape as they are now
        answer = func(*args, **kwargs)
        returns = func._schema.returns
        is_view = returns and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)
        if not is_view and torch.Tag.inplace_view not in func.tags:
            self.operations.append((func, *before, tree_map_only(torch.Tensor, torch.Tensor.detach, answer)))
        return answer

    @torch.no_grad()
    def undo(self):
        for tensor, value in reversed(self.overwritten):
            tensor.copy_(value)
        for generator, state in self.generators:
            generator.set_state(state)
        self.overwritten = []

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, answer in self.operations:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(answer), tree_leaves(again), strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != kept.data_ptr():
                    kept.copy_(new)


def capture(agent, graphs=None):
    """The same agent, whose updates are replayed from now on."""
    host = [
        (agent, "_n_updates", "num_timesteps", "_total_timesteps", "_current_progress_remaining"),
        (agent.replay_buffer, "pos", "full"),
        (agent.rounds, "_measure_every", "_policy_delay", "_reset_at"),
    ]
    agent.captured = agent.rounds._replay = CapturedUpdates(agent.rounds._update, graphs or TracedGraphs(*host))
    return agent


def state_of(agent):
    state = training_state(agent)
    for name in [name for name in state["modules"] if name.endswith("optimizer")]:
        for group in state["modules"][name]["param_groups"]:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float64)  # the number, however it is held
    return [state, agent.replay_buffer.state_dict(), rng_state(agent)]


def eagerly(steps=STEPS, **settings):
    """The state after an eager run; one agent is made and run after the other, as they share torch's generator."""
    agent = toy_agent(**{**SETTINGS, **settings})
    agent.learn(2 * steps)
    assert agent.replay_buffer.full == (steps >= SETTINGS["buffer_size"])
    return state_of(agent)


def assert_captured_as_eager(steps, **settings):
    """Replayed updates leave the state that eager ones leave."""
    eager = eagerly(steps, **settings)
    agent = capture(toy_agent(**SETTINGS, **settings))
    agent.learn(2 * steps)
    assert agent.captured.replays.graphs.replays > 0
    assert_same_tensors(eager, state_of(agent))
