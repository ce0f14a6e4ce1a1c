"""Updates as CUDA graphs: the host launches one graph instead of some hundred small kernels.

A replay computes what the eager update would, and going on from a saved state needs nothing special, because

- whatever an update reads or writes (parameters, moments, temperatures, buffers of the aggregators, stored transitions
  and their fill level, learning rate, number of the update, logged numbers) is a tensor that exists before the capture,
  stays where it is, and is changed in place: it can be saved, or written to by the host, between any two replays;
- random numbers come from generators that the graph knows: at each replay their offsets advance, on the host, by as
  much as the same draws advance them eagerly, so that a saved generator state is exact, too;
- the host decides between updates, never inside: one graph for each pattern of turns; an update that measures
  conflict runs eagerly;
- an aggregator that waits for the device or keeps state on the host says so (`mtrl.Aggregator.capturable`): then all
  updates run eagerly.

Settings (`gamma`, `tau` ...) are constants of a graph.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mtrl
from agents.device.graphs import WARM_UP, CudaGraphs, Graphs, Replays
from agents.learning.rounds import NotedUpdate
from agents.learning.update import Turn


class CapturedUpdates:
    """Makes updates by replaying graphs, after a few eager ones; eagerly for good if that cannot be.

    :param graphs: what captures; CUDA unless given.
    :param warm_up: eager updates before a capture.
    """

    def __init__(self, update: NotedUpdate, graphs: Graphs | None = None, warm_up: int = WARM_UP):
        device = update.number.device
        self.update = update
        aggregators = update.update.aggregators
        methods = ", ".join(f"{name}: {type(method).__name__}" for name, method in aggregators.items())
        self.graphs = graphs or CudaGraphs(device)
        self.replays = Replays(self.graphs, f"The update ({methods})", warm_up)
        if eager := [type(method).__name__ for method in aggregators.values() if not self.holds(method)]:
            self.replays.refused = True
            warnings.warn(
                f"Updates run eagerly, slower and otherwise the same: {' and '.join(dict.fromkeys(eager))} may ask the "
                "host, which a captured graph does not (a class says otherwise with `capturable = True`).",
                RuntimeWarning,
                stacklevel=2,
            )
        self._held: list[Any] = []
        self._begun = False  # since that was exchanged, an update of all networks was made
        # the fused kernel on CUDA reads a learning rate that is a tensor in float32
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._learning_rate = torch.zeros((), dtype=dtype, device=device)

    def __call__(self, batch_size: int, turn: Turn) -> None:
        """One update with `batch_size` rows per task."""
        update, state = partial(self.update, batch_size, turn), self._state()
        exchanged = len(state) != len(self._held) or any(a is not b for a, b in zip(state, self._held, strict=True))
        if exchanged:
            self.replays.forget()
            self._held, self._begun = state, False
        # what the first update of a network, or of an aggregator that was reset, has still to make: in a graph, each
        # replay would make it anew, and in a compiled one, none; a resumed run has it
        if not self._begun and any(each is None or (isinstance(each, Tensor) and not each.numel()) for each in state):
            update()
            self._begun |= turn.actor
        else:
            self.replays.run((batch_size, turn), update, self.update.generators())

    def holds(self, method: mtrl.Aggregator) -> bool:
        """Whether a graph can hold the method."""
        return method.capturable

    def hold_learning_rate(self) -> None:
        """Put the number that Stable-Baselines3 gave to the optimizers into the tensor that the graphs read."""
        groups = [group for optimizer in self.update.update.all_optimizers() for group in optimizer.param_groups]
        self._learning_rate.fill_(groups[0]["lr"])
        for group in groups:  # each time: `load_state_dict` of an optimizer puts new groups in the place of the old
            group["lr"], group["capturable"] = self._learning_rate, True

    def _state(self) -> list[Any]:
        """Return what loading, or `reset` of an aggregator, exchanges for new tensors: a graph would use the old.

        And which parameters are trained: a graph would go on with those that are frozen now.
        """
        update = self.update.update
        moments = [
            optimizer.state.get(parameter, {}).get("exp_avg") if parameter.requires_grad else False
            for optimizer in update.all_optimizers()
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        buffers = [buffer for method in update.aggregators.values() for buffer in method.buffers()]
        logged: list[Any] = list(self.update.metrics.latest.values()) or [None]
        return [self.update.buffer.rows, *self.update.generators(), *buffers, *moments, *logged]
