"""CUDA graphs: what is launched on a device while capturing is launched again by one call.

A graph can be cut, where something cannot be captured: what a replay then runs is a graph, that thing, another graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol, runtime_checkable

import torch

WARM_UP = 3  # eager updates before a capture: libraries make their handles, optimizers their moments

Update = Callable[[], None]


@runtime_checkable
class Graphs(Protocol):
    """What captures: CUDA, or a stand-in for it in tests.

    `broken` counts the captures that broke off. Each leaves the generators that it knew waiting for its end, so they go
    on with new states, which graphs from before do not know: those must not be replayed any more.
    """

    broken: int

    def warm_up(self, update: Update) -> None:
        """Run an update that comes before a capture."""

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """Record the update without running it; what is returned runs it. RuntimeError if that cannot be."""

    def cut(self, between: Update) -> None:
        """Called by an update under capture: let each replay run `between` here, which is not captured."""


class CudaGraphs:
    """Graphs of a CUDA device. They share one pool of memory: nothing that outlives a replay lies in it."""

    broken: int = 0  # of all in this process, which share the device's default generator

    def __init__(self, device: torch.device):
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self._generators: Sequence[torch.Generator] = ()
        self._pieces: list[Update] = []
        self._open = ExitStack()

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
        self._generators, self._pieces = generators, []
        with torch.cuda.device(self.device):
            present = torch.cuda.current_stream()
            try:
                self._begin()
                try:
                    update()
                finally:
                    self._open.close()
            except RuntimeError:
                # a capture that breaks off leaves its stream the current one, and generators that wait for its end
                torch.cuda.set_stream(present)
                for generator in (torch.cuda.default_generators[torch.cuda.current_device()], *generators):
                    generator.graphsafe_set_state(generator.clone_state())
                CudaGraphs.broken += 1
                raise
        pieces = self._pieces

        def replay() -> None:
            for piece in pieces:
                piece()

        return replay

    def cut(self, between: Update) -> None:
        """End this graph and begin another: what lies in memory between the two is `between`'s to read and write."""
        self._open.close()
        self._pieces.append(between)
        self._begin()

    def _begin(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        self._open = ExitStack()
        self._open.enter_context(torch.cuda.graph(graph, pool=self.pool))
        self._pieces.append(graph.replay)
