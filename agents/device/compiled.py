"""Compiled updates: one graph of the update's operations, which torch's Inductor fuses into kernels.

Those are C++ on a CPU and Triton's on CUDA, where what was compiled is captured in turn (`agents.device.graphs`).

An update is recorded as a CUDA graph would be (`agents.device.captured`), as operations on tensors that stay where they
are; so whatever makes it up (modules, tapes, hooks, autograd) may be as it is. Three things stay outside of the graph:

- random numbers are drawn before it runs, from the same generators and in the same order;
- on a CPU, what a method makes of the Gramian stays eager, as one call: it is small, and may ask the host;
- the first update, in which the optimizers make their moments, and updates that measure conflict.

Matrix products are those of the eager update, what lies between them is rounded elsewhere: 1e-6, not bit for bit. Runs
with compiled updates equal each other bit for bit, resumed ones included. Gradients must be longer than 1e-13 and
shorter than 1e18, as on a device.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import mtrl
from agents.device.captured import CapturedUpdates
from agents.device.faster import faster_if_compiled
from agents.device.graphs import CudaGraphs, Graph, Graphs, Update
from agents.learning.rounds import NotedUpdate

_methods: list[mtrl.Aggregator] = []  # whose weights the running graph asks for, by their number; none while recording


def _answer(gramian: Tensor, losses: Tensor, method: int) -> Tensor:
    """Answer for `GramianAggregator.weights` in a graph."""
    if not _methods:  # any answer will do, and the method's state stays as it is
        return gramian.new_full(gramian.shape[:-1], 1 / gramian.shape[-1])
    aggregator = _methods[method]
    assert isinstance(aggregator, mtrl.GramianAggregator)
    return type(aggregator).weights(aggregator, gramian, losses).detach().to(gramian.dtype, copy=True)


# not torch.library.custom_op, whose wrappers in Python take as long as a small method
_OPERATIONS = torch.library.Library("mtrl_surgery", "FRAGMENT")
_OPERATIONS.define("weights(Tensor gramian, Tensor losses, int method) -> Tensor")
_OPERATIONS.impl("weights", _answer, "CPU")
_OPERATIONS.impl("weights", lambda gramian, losses, method: gramian.new_empty(gramian.shape[:-1]), "Meta")
_weights = torch.ops.mtrl_surgery.weights.default


class CompiledUpdates(CapturedUpdates):
    """Makes updates by calling compiled graphs, from the second on; eagerly for good if that cannot be."""

    def __init__(self, update: NotedUpdate, cuda: Graphs | None = None):
        device = update.number.device
        self._cuda = cuda or (CudaGraphs(device) if device.type == "cuda" else None)
        super().__init__(update, CompiledGraphs(tuple(update.update.aggregators.values()), self._cuda), warm_up=0)
        self.graphs = self._cuda or self.graphs  # for others, whose work is not compiled

    def holds(self, method: mtrl.Aggregator) -> bool:
        """On a CPU also any method that needs the Gramian alone, as its weights are computed outside."""
        outside = isinstance(method, mtrl.GramianAggregator) and not method.looks_back and self._cuda is None
        return method.capturable or outside


class CompiledGraphs:
    """Traces updates and compiles them.

    :param aggregators: whose weights are not part of a graph, if they are made of the Gramian.
    :param cuda: captures what was compiled; then the weights are part of it.
    """

    def __init__(self, aggregators: Sequence[mtrl.Aggregator], cuda: Graphs | None = None):
        self.aggregators, self.cuda = aggregators, cuda

    def capture(self, update: Update, generators: Sequence[torch.Generator]) -> Graph:
        """Trace an update, leave no trace of it, and compile it.

        :raises RuntimeError: if that cannot be, whatever the reason.
        """
        recorder = _Recorder([torch.default_generator, *_device_generators(), *generators])
        best, failed = update, ""
        try:
            with nullcontext() if self.cuda else self._weights_outside(), recorder:
                update()
            graph = CompiledGraph(recorder, self.aggregators)
            if self.cuda is None:
                return graph
            graph()  # Triton loads its kernels at their first call, which no capture may hold
            best = graph
        except Exception as error:  # an operation that a graph cannot hold, no compiler ...: whatever it is
            failed = _in_one_line(error)
            if self.cuda is None:
                raise RuntimeError(failed) from error
        finally:
            recorder.undo()
        captured = self.cuda.capture(best, generators)
        if failed:
            message = "Updates are captured and not compiled, slower and otherwise the same to rounding"
            warnings.warn(f"{message}: {failed}", RuntimeWarning, stacklevel=2)
        return captured

    @contextmanager
    def _weights_outside(self) -> Iterator[None]:
        """Inside, Gramian methods answer through the operation that a graph can hold."""
        outside = [(i, each) for i, each in enumerate(self.aggregators) if isinstance(each, mtrl.GramianAggregator)]
        for number, method in outside:
            method.weights = partial(_weights, method=number)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for _, method in outside:
                del method.weights


class CompiledGraph:
    """A traced update, compiled: a call runs it."""

    stale = False

    def __init__(self, recorded: _Recorder, aggregators: Sequence[mtrl.Aggregator]):
        self._draws, self._tensors, self._aggregators = recorded.draws, recorded.inputs, aggregators
        self._run = compiled(recorded.module(), self._tensors)

    @torch.no_grad()
    def __call__(self) -> None:
        """Draw the random numbers, then run the graph on the tensors that it was traced on."""
        for drawn, draw in self._draws:
            drawn.copy_(draw())
        _methods[:] = self._aggregators
        try:
            self._run(*self._tensors)
        finally:
            _methods.clear()


@torch.no_grad()
def compiled(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Make machine code of the graph, or take it from torch's cache if the same was compiled before."""
    from torch._inductor import config  # here, as it takes a second
    from torch._inductor.compile_fx import compile_fx

    # no processes that would outlive a signal; reordered loops fail on CUDA in torch 2.11, an assertion of Inductor's
    settings: dict[str, Any] = {"compile_threads": 1, "loop_ordering_after_fusion": False}
    if all(tensor.device.type == "cpu" for tensor in inputs):
        settings["pick_loop_orders"] = False  # loops as `small_gramian` has them; no other was faster in another order
    if hasattr(config, "deterministic"):  # sums on CUDA whose order no timing decides; torch 2.8 has no such setting
        settings["deterministic"] = True
    with config.patch(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TensorFloat32")  # the precision is chosen
        run: Any = compile_fx(graph, inputs)
    return run


def _device_generators() -> list[torch.Generator]:
    return list(torch.cuda.default_generators) if torch.cuda.is_initialized() else []


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


DRAWING = ("rand", "randn", "rand_like", "randn_like", "randint", "randperm")


class _Recorder(TorchDispatchMode):
    """Writes the operations that run inside it down as a graph, whose inputs are the tensors from outside.

    Random numbers come from outside, too, and what is overwritten is remembered.
    """

    def __init__(self, generators: Sequence[torch.Generator]):
        super().__init__()
        self.inputs: list[Tensor] = []
        self.draws: list[tuple[Tensor, Callable[[], Tensor]]] = []  # inputs, and what draws them anew
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no id comes twice
        self._last_input: fx.Node | None = None
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__.partition(".")[0]
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(f"operation not permitted in a graph: {func} asks for a number")
        if name.startswith("_record_function"):  # the optimizers' marks for torch.profiler
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            if name not in DRAWING:
                raise RuntimeError(f"operation not permitted in a graph: the random numbers of {func}")
            drawn = func(*args, **kwargs)
            self.draws.append((drawn, lambda: func(*args, **kwargs)))
            return drawn
        written = [value for each, value in zip(func._schema.arguments, args, strict=False) if each.is_write]
        self._overwritten += [(each.detach(), each.detach().clone()) for each in tree_leaves(written)]
        if instead := faster_if_compiled(name, args, kwargs):
            with self:
                return instead()
        node = self._graph.call_function(func, *tree_map_only(Tensor, self._node_of, (args, kwargs)))
        answer = func(*args, **kwargs)
        if isinstance(answer, Tensor):
            self._remember(answer, node)
        elif isinstance(answer, tuple | list):
            for i, each in enumerate(answer):
                if isinstance(each, Tensor):
                    self._remember(each, self._graph.call_function(operator.getitem, (node, i)))
        return answer

    def _node_of(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self._nodes:
            with self._graph.inserting_after(self._last_input):
                self._last_input = self._graph.placeholder(f"tensor_{len(self.inputs)}")
            self.inputs.append(tensor.detach())
            self._remember(tensor, self._last_input)
        return self._nodes[id(tensor)]

    def _remember(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def module(self) -> fx.GraphModule:
        """Return the graph as a function of `inputs` that answers nothing, and let go of all other tensors."""
        self._graph.output([])
        self._graph.lint()
        self._alive, self._nodes = [], {}
        return fx.GraphModule(torch.nn.Module(), self._graph)

    @torch.no_grad()
    def undo(self) -> None:
        """Put everything back as it was before, and let go of all that the update made: a capture may need the room."""
        for tensor, before in reversed(self._overwritten):
            tensor.copy_(before)
        for generator, state in self._generators:
            generator.set_state(state)
        self._overwritten, self._alive, self._nodes = [], [], {}
