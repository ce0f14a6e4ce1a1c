"""CUDA graphs: what is launched on a device while capturing is launched again by one call."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable
from weakref import WeakValueDictionary

import torch

WARM_UP = 3  # eager updates before a capture: libraries make their handles, optimizers their moments

Update = Callable[[], None]


@runtime_checkable
class Graph(Protocol):
    """A captured update: a call runs it, unless it is stale."""

    @property
    def stale(self) -> bool:
        """Whether a capture has broken off since: then it must not be run any more."""

    def __call__(self) -> None:
        """Run what was captured."""


@runtime_checkable
class Graphs(Protocol):
    """What captures: CUDA, or a stand-in for it in tests."""

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> Graph:
        """Record the update without running it.

        :raises RuntimeError: if that cannot be; then nothing was run, and all graphs from before are stale.
        """


class _Place:
    """Where graphs of a device lie, as long as one of them lives: a pool of memory, and the stream of their captures.

    All agents of a process share it: torch gives few streams, in turns, and the memory that cuBLAS works in is one per
    stream, lies in the pool of whoever captured first, and is let go with *any* graph of that stream (from torch 2.12
    on), though others use it still. Nothing that outlives a replay lies in the pool, and replays follow each other.
    """

    def __init__(self) -> None:
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()


_places: WeakValueDictionary[int, _Place] = WeakValueDictionary()  # torch takes no graph into a pool that lost its last


class CudaGraph:
    """A graph, and how many captures had broken off when it was made.

    A capture that breaks off leaves the generators that it knew waiting for its end, so they go on with new states,
    which graphs from before do not know.
    """

    broken: int = 0  # captures, of all in this process, which share the device's default generator

    def __init__(self, graph: torch.cuda.CUDAGraph, place: _Place, update: Update):
        self._graph, self._place, self._broken = graph, place, CudaGraph.broken
        self._update = update  # its tensors outside of the pool, which replays go on writing to, stay taken

    @property
    def stale(self) -> bool:
        """Whether a capture has broken off since."""
        return self._broken != CudaGraph.broken

    def __call__(self) -> None:
        """Launch what was captured."""
        self._graph.replay()


class CudaGraphs:
    """Graphs of a CUDA device."""

    def __init__(self, device: torch.device):
        self.device = device

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> CudaGraph:
        """Record the update; the device's own generator is known to every graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            device, present = torch.cuda.current_device(), torch.cuda.current_stream()
            place = _places.get(device) or _places.setdefault(device, _Place())
            try:
                for generator in generators:
                    graph.register_generator_state(generator)
                with _no_garbage_collection(), torch.cuda.graph(graph, pool=place.pool, stream=place.stream):
                    update()
                # torch sets the generators' offsets to 0 on the stream of the capture, the first replay on this one to
                # what they are: in the other order, on a busy device, it would draw the wrong numbers
                present.wait_stream(place.stream)
            except RuntimeError:
                # a capture that breaks off leaves its stream the current one, the pool open, and generators that wait
                torch.cuda.set_stream(present)
                with suppress(RuntimeError):  # if it broke off before the pool was open
                    torch._C._cuda_endAllocateToPool(device, place.pool)
                    torch._C._cuda_releasePool(device, place.pool)  # its memory would stay the pool's for good
                del _places[device]
                for generator in (torch.cuda.default_generators[device], *generators):
                    generator.graphsafe_set_state(generator.clone_state())
                CudaGraph.broken += 1
                raise
        return CudaGraph(graph, place, update)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Inside, no graph of an agent that nobody holds any more is destroyed: CUDA would break the capture off."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Replays:
    """Functions that are run eagerly a few times and replayed as graphs from then on; all eagerly if one cannot be.

    :param what: is captured, for the warning if it cannot be: "Acting".
    :param warm_up: so many eager runs come first.
    """

    def __init__(self, graphs: Graphs, what: str, warm_up: int = WARM_UP):
        self.graphs, self.what, self.warm_up = graphs, what, warm_up
        self.refused = False  # a capture broke off: everything runs eagerly
        self._warm = 0
        self._captured: dict[Hashable, Graph] = {}

    def run(self, key: Hashable, update: Update, generators: Sequence[torch.Generator] = ()) -> None:
        """Run the update called `key`.

        :param generators: that it draws from, beside the device's own.
        """
        if self.refused or self._warm < self.warm_up:
            self._warm += 1
            update()
            return
        if key not in self._captured or self._captured[key].stale:
            self._capture(key, update, generators)
        # not where the error is caught, which holds on to all memory of the capture that broke off
        self._captured.get(key, update)()

    def forget(self) -> None:
        """Begin with eager runs again: what the graphs read or wrote is not in use any more."""
        self._warm = 0
        self._captured.clear()

    def _capture(self, key: Hashable, update: Update, generators: Sequence[torch.Generator]) -> None:
        try:
            self._captured[key] = self.graphs.capture(update, generators)
        except RuntimeError as error:
            self.refused = True
            self._captured.clear()
            message = f"{self.what} cannot be captured and runs eagerly from now on, slower and otherwise the same"
            warnings.warn(f"{message}: {error}", RuntimeWarning, stacklevel=2)
