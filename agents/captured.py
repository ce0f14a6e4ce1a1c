"""MTSAC's updates as CUDA graphs: the host launches one graph instead of some hundred small kernels.

A replay computes what the eager update would, and going on from a saved state needs nothing special, because

- whatever an update reads or writes (parameters, moments, temperatures, buffers of the aggregators, stored transitions
  and their fill level, learning rate, number of the update, logged numbers) is a tensor that exists before the capture,
  stays where it is, and is changed in place: it can be saved, or written to by the host, between any two replays;
- random numbers come from generators that the graph knows: at each replay their offsets advance, on the host, by as
  much as the same draws advance them eagerly, so that a saved generator state is exact, too;
- the host decides between updates, never inside: one graph for each pattern of turns; an update that measures
  conflict runs eagerly.

Settings (`gamma`, `tau` ...) are constants of a graph: a change after the capture goes unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtrl
from agents.update import TaskUpdates, Turn

WARM_UP = 3  # eager updates before a capture: libraries make their handles, optimizers their moments

Update = Callable[[], None]


@runtime_checkable
class Graphs(Protocol):
    """What captures: CUDA, or a stand-in for it in tests."""

    def warm_up(self, update: Update) -> None:
        """Run an update that comes before a capture."""

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """Record the update without running it; what is returned runs it. RuntimeError if that cannot be."""


class CudaGraphs:
    """Graphs of a CUDA device. They share one pool of memory: nothing that outlives a replay lies in it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, update: Update) -> None:
        """On a side stream, as captures are."""
        with torch.cuda.device(self.device):
            side, present = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(present)
            with torch.cuda.stream(side):
                update()
            present.wait_stream(side)

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """Record the update; the device's own generator is known to every graph."""
        with torch.cuda.device(self.device):
            graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(graph, pool=self.pool):
                    update()
            except RuntimeError:
                # a capture that breaks off leaves its stream the current one, and generators that wait for its end
                torch.cuda.set_stream(present)
                for generator in (torch.cuda.default_generators[torch.cuda.current_device()], *generators):
                    generator.graphsafe_set_state(generator.clone_state())
                raise
        return graph.replay


class CapturedUpdates:
    """Makes an agent's updates by replaying graphs, after a few eager ones; eagerly for good if that cannot be.

    :param together: how many updates may come in one graph.
    :param graphs: what captures; CUDA unless given.
    :raises ValueError: if the agent is not on a CUDA device.
    """

    def __init__(self, agent: TaskUpdates, together: int = 1, graphs: Graphs | None = None):
        if graphs is None and agent.device.type != "cuda":
            raise ValueError(
                f"capture needs a CUDA device, the agent is on {agent.device}. Leave capture=False, or give a device."
            )
        self.agent, self.together = agent, together
        self.graphs: Graphs = graphs or CudaGraphs(agent.device)
        self.refused = False
        self._warm = 0
        self._held: list[Any] = []
        self._replays: dict[tuple[int, tuple[Turn, ...]], Update] = {}
        # the fused kernel on CUDA reads a learning rate that is a tensor in float32
        dtype = torch.float32 if agent.device.type == "cuda" else torch.float64
        self._learning_rate = torch.zeros((), dtype=dtype, device=agent.device)

    def __call__(self, batch_size: int, turns: tuple[Turn, ...]) -> None:
        """One update for each turn."""
        update = partial(self.agent._draw_and_update, batch_size, turns)
        if self.refused:
            update()
        elif self._warm < WARM_UP or not self._still_held():
            self._warm_up(update)
        else:
            self._replay((batch_size, turns), update)

    def hold_learning_rate(self) -> None:
        """Put the number that Stable-Baselines3 gave to the optimizers into the tensor that the graphs read."""
        groups = [group for optimizer in self.agent._optimizers() for group in optimizer.param_groups]
        self._learning_rate.fill_(groups[0]["lr"])
        for group in groups:  # each time: `load_state_dict` of an optimizer puts new groups in the place of the old
            group["lr"], group["capturable"] = self._learning_rate, True

    def _warm_up(self, update: Update) -> None:
        with _Watch() as watch:
            self.graphs.warm_up(update)
        if not self._still_held():
            self._held, self._warm = self._state(), 0
            self._replays.clear()
        self._warm += 1
        if problem := _host_state(self._aggregators()) or watch.problem():
            self._refuse(problem)

    def _replay(self, key: tuple[int, tuple[Turn, ...]], update: Update) -> None:
        if key not in self._replays:
            try:
                self._replays[key] = self.graphs.capture(update, self._generators())
            except RuntimeError as error:
                self._refuse(str(error))
                return update()
        return self._replays[key]()

    def _refuse(self, problem: str) -> None:
        methods = ", ".join(f"{name}: {type(method).__name__}" for name, method in self._aggregators().items())
        warnings.warn(
            f"The update cannot be captured and runs eagerly from now on, slower and otherwise the same ({methods}): "
            f"{problem}",
            RuntimeWarning,
            stacklevel=2,
        )
        self.refused = True
        self._replays.clear()

    def _aggregators(self) -> dict[str, mtrl.Aggregator]:
        return {"actor": self.agent.aggregator, "critic": self.agent.critic_aggregator}

    def _generators(self) -> list[torch.Generator]:
        own = (getattr(method, "generator", None) for method in self._aggregators().values())
        return [self.agent.replay_buffer.generator, *(g for g in own if isinstance(g, torch.Generator))]

    def _state(self) -> list[Any]:
        """What loading, or `reset` of an aggregator, exchanges for new tensors: a graph would go on with the old."""
        agent = self.agent
        first: list[dict[str, Any]] = [next(iter(optimizer.state.values()), {}) for optimizer in agent._optimizers()]
        buffers = [buffer for method in self._aggregators().values() for buffer in method._buffers.values()]
        moments = [moment.get("exp_avg") for moment in first]
        logged = agent.task_metrics.latest.get("critic_loss")
        return [agent.replay_buffer.rows, *self._generators(), *buffers, *moments, logged]

    def _still_held(self) -> bool:
        state = self._state()
        return len(state) == len(self._held) and all(a is b for a, b in zip(state, self._held, strict=True))


class _Watch(TorchDispatchMode):
    """Sees operations that a capture does not survive: known before one is tried, they do no harm."""

    waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        ends = {"_to_copy": (answer, *args[:1]), "copy_": args[:2]}.get(name, ())
        if name in self.waiting or len({end.device.type for end in ends}) > 1:
            self.found.add(name)
        return answer

    def problem(self) -> str:
        """What was seen, as a sentence; empty if nothing was."""
        return f"it waits for the device ({', '.join(sorted(self.found))})." if self.found else ""


def _host_state(methods: Mapping[str, mtrl.Aggregator]) -> str:
    """Which method keeps state that is no buffer and no generator, as a sentence; empty if none does."""
    kept = [
        type(method).__name__
        for method in methods.values()
        if type(method).get_extra_state is not nn.Module.get_extra_state
        and not isinstance(getattr(method, "generator", None), torch.Generator)
    ]
    return f"{kept[0]} keeps state on the host, which a replay does not change (get_extra_state)." if kept else ""
