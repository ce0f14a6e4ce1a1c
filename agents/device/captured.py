"""MTSAC's updates as CUDA graphs: the host launches one graph instead of some hundred small kernels.

A replay computes what the eager update would, and going on from a saved state needs nothing special, because

- whatever an update reads or writes (parameters, moments, temperatures, buffers of the aggregators, stored transitions
  and their fill level, learning rate, number of the update, logged numbers) is a tensor that exists before the capture,
  stays where it is, and is changed in place: it can be saved, or written to by the host, between any two replays;
- random numbers come from generators that the graph knows: at each replay their offsets advance, on the host, by as
  much as the same draws advance them eagerly, so that a saved generator state is exact, too;
- the host decides between updates, never inside: one graph for each pattern of turns; an update that measures
  conflict runs eagerly;
- an aggregator that cannot be captured, because it waits for the device or keeps state on the host, runs eagerly
  between two graphs; the rest of the update stays captured.

Settings (`gamma`, `tau` ...) are constants of a graph: a change after the capture goes unnoticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtrl
from agents.device.graphs import WARM_UP, CudaGraphs, Graphs, Update
from agents.learning.update import TaskUpdates, Turn


class CapturedUpdates:
    """Makes an agent's updates by replaying graphs, after a few eager ones; eagerly for good if that cannot be.

    `between` names the networks whose aggregator runs eagerly between graphs, `refused` says that all of it does.

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
        self.between: set[str] = set()
        self._warm = 0
        self._held: list[Any] = []
        self._replays: dict[tuple[int, tuple[Turn, ...]], Update] = {}
        self._broken = self.graphs.broken  # when they were captured
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
        methods = self._aggregators()
        with _Watch(methods) as watch, _asked(methods, watch.ask):
            self.graphs.warm_up(update)
        if not self._still_held():
            self._held, self._warm = self._state(), 0
            self._replays.clear()
        self._warm += 1
        if problem := watch.problem(""):
            self._refuse(problem)
        found = {name: _host_state(method) or watch.problem(name) for name, method in methods.items()}
        if names := [name for name, problem in found.items() if problem and name not in self.between]:
            self._run_between(names, " ".join(dict.fromkeys(found[name] for name in names)))

    def _replay(self, key: tuple[int, tuple[Turn, ...]], update: Update) -> None:
        if self._broken != self.graphs.broken:
            self._replays.clear()
        if key not in self._replays:
            try:
                self._replays[key] = self._capture(update)
            except RuntimeError as error:
                self._refuse(str(error))
                return update()
            self._broken = self.graphs.broken
        return self._replays[key]()

    def _capture(self, update: Update) -> Update:
        """A graph of the update, cut where an aggregator must run eagerly: at the second try, every one."""
        methods = self._aggregators()
        within = [name for name in methods if name not in self.between]
        try:
            with _asked({name: methods[name] for name in self.between}, self._cut):
                return self.graphs.capture(update, self._generators())
        except RuntimeError as error:
            if not within:
                raise
            with _asked(methods, self._cut):
                replay = self.graphs.capture(update, self._generators())
            self._run_between(within, str(error))
            return replay

    def _cut(self, name: str, question: str, *tensors: Tensor) -> Tensor | None:
        """Where the answer of an aggregator will lie; it is asked in each replay, between two graphs."""
        method = self._aggregators()[name]
        answer = {
            "weights": lambda: torch.zeros_like(tensors[-1], dtype=torch.float64),  # (T,)
            "forward": lambda: torch.zeros_like(tensors[0][0]),  # (P,)
            "after_step": lambda: None,
        }[question]()

        def between() -> None:
            found = method(*tensors) if question == "forward" else getattr(method, question)(*tensors)
            if answer is not None:
                answer.copy_(found)

        self.graphs.cut(between)
        return answer

    def _run_between(self, names: list[str], problem: str) -> None:
        self.between.update(names)
        self._warn("What cannot be captured runs eagerly between graphs, slower", names, problem)

    def _refuse(self, problem: str) -> None:
        self.refused = True
        self._replays.clear()
        names = list(self._aggregators())
        self._warn("The update cannot be captured and runs eagerly from now on, slower", names, problem)

    def _warn(self, what: str, names: list[str], problem: str) -> None:
        methods = ", ".join(f"{name}: {type(self._aggregators()[name]).__name__}" for name in names)
        warnings.warn(f"{what} and otherwise the same ({methods}): {problem}", RuntimeWarning, stacklevel=2)

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


@contextmanager
def _asked(methods: Mapping[str, mtrl.Aggregator], through: Callable[..., Any]) -> Iterator[None]:
    """Within, whatever an update asks of a method goes through `through(name, question, *tensors)`."""
    patched = []
    for name, method in {id(method): (name, method) for name, method in methods.items()}.values():
        weighs = isinstance(method, mtrl.GramianAggregator | mtrl.LossAggregator)
        for question in ("weights" if weighs else "forward", "after_step"):
            vars(method)[question] = partial(through, name, question)
            patched.append((method, question))
    try:
        yield
    finally:
        for method, question in patched:
            del vars(method)[question]


class _Watch(TorchDispatchMode):
    """Sees operations that a capture does not survive: known before one is tried, they do no harm."""

    waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")

    def __init__(self, methods: Mapping[str, mtrl.Aggregator]) -> None:
        super().__init__()
        self.methods = methods
        self.found: dict[str, set[str]] = {name: set() for name in ("", *methods)}
        self.inside = ""  # of the aggregator of this network; else of the update

    def ask(self, name: str, question: str, *tensors: Tensor) -> Any:
        """The method's own answer, while what is seen counts as the method's."""
        self.inside = name
        try:
            return getattr(type(self.methods[name]), question)(self.methods[name], *tensors)
        finally:
            self.inside = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        ends = {"_to_copy": (answer, *args[:1]), "copy_": args[:2]}.get(name, ())
        if name in self.waiting or len({end.device.type for end in ends}) > 1:
            self.found[self.inside].add(name)
        return answer

    def problem(self, name: str) -> str:
        """What was seen in an aggregator, or with "" in the rest, as a sentence; empty if nothing was."""
        return f"it waits for the device ({', '.join(sorted(self.found[name]))})." if self.found[name] else ""


def _host_state(method: mtrl.Aggregator) -> str:
    """What the method keeps besides buffers and generator, as a sentence; empty if nothing."""
    kept = type(method).get_extra_state is not nn.Module.get_extra_state
    if kept and not isinstance(getattr(method, "generator", None), torch.Generator):
        return f"{type(method).__name__} keeps state on the host, which a replay does not change (get_extra_state)."
    return ""
