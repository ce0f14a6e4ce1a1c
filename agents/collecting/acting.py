"""Exploring on a device: one copy of the observations up, one of the actions down, per vector step."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from agents.device.graphs import WARM_UP, Graphs, Update
from agents.device.transfer import HostBlock
from agents.networks.policies import MultiTaskActor


class DeviceActing:
    """Draws actions as `predict` does, with the same numbers from the same generator, and nothing else in the way.

    The host waits once, for the actions. With `graphs` the network and its noise are one captured graph, after a few
    eager calls; it follows the parameters, which change in place.

    :param graphs: what captures; None: each call runs eagerly.
    """

    def __init__(self, actor: MultiTaskActor, graphs: Graphs | None = None):
        self.actor, self.graphs = actor, graphs
        self._shape: tuple[int, ...] = ()
        self._replay: Update | None = None

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Actions (rows, A) in (-1, 1) for observations (rows, D)."""
        if observations.shape != self._shape:
            self._begin(observations.shape)
        self._up.writable().copy_(torch.as_tensor(observations))
        self._up.send(self._observations)
        self._run()
        return self._down.fetch(self._actions)

    @torch.no_grad()
    def _begin(self, shape: tuple[int, ...]) -> None:
        """Make the tensors that stay; a graph of other ones is of no use any more."""
        parameter = next(self.actor.parameters())
        self._observations = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        self._actions = self.actor(self._observations, deterministic=True)
        self._up, self._down = HostBlock(self._observations), HostBlock(self._actions)
        self._shape, self._calls, self._replay = shape, 0, None

    @torch.no_grad()
    def _sample(self) -> None:
        self._actions.copy_(self.actor(self._observations))

    def _run(self) -> None:
        self._calls += 1
        if self.graphs is None:
            self._sample()
        elif self._calls <= WARM_UP:
            self.graphs.warm_up(self._sample)
        else:
            if self._replay is None or self._broken != self.graphs.broken:
                self._capture(self.graphs)
            (self._replay or self._sample)()

    def _capture(self, graphs: Graphs) -> None:
        self._replay = None
        try:
            self._replay = graphs.capture(self._sample, [])
        except RuntimeError as error:
            warnings.warn(f"Acting cannot be captured and runs eagerly: {error}", RuntimeWarning, stacklevel=2)
            self.graphs = None
        self._broken = graphs.broken
