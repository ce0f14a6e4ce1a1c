"""Remember what each layer saw, so that one backward pass yields the gradient of every task.

The rows of a batch lie in T blocks, block t from task t. The gradient of task t's loss with respect to the parameters
of a layer then needs only block t of the layer's input and block t of the gradient at its output: one batched product
per layer instead of T backward passes. Which layers this holds for is written down in `mtrl.rules`; any other layer
with parameters is an error, never a silent wrong answer. So is a use of a parameter outside of its layer's recorded
calls, such as a weight penalty in the losses, and a layer that mixes the rows of the batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from mtrl.graph import graph_of, leads_past, leaves_of
from mtrl.parameters import Parameters, parameters_in, trained_and_frozen
from mtrl.rules import RULES, BlockRule, has_blocks, rule_for


@dataclass
class _Call:
    inputs: Tensor
    source: Node | None  # what the inputs came from, in the graph
    output: GradientEdge  # not the output tensor: an in-place ReLU after the layer would turn that into its own output
    versions: list[tuple[Tensor, int]]  # tensors that nobody may write into, and how often that had happened before

    @classmethod
    def of(cls, inputs: Tensor, output: Tensor) -> "_Call":
        # Writing into an output is fine unless it is a view: autograd then rebuilds the graph around our edge.
        untouchable = [inputs.detach(), output.detach()] if output._is_view() else [inputs.detach()]
        versions = [(tensor, tensor._version) for tensor in untouchable]
        return cls(untouchable[0], inputs.grad_fn, get_gradient_edge(output), versions)

    def overwritten(self) -> bool:
        return any(tensor._version != version for tensor, version in self.versions)


@dataclass
class _Layer:
    name: str
    module: nn.Module
    rule: BlockRule
    parameters: dict[str, nn.Parameter]
    num_tasks: int
    calls: list[_Call] = field(default_factory=list)

    def remember(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook: keep the inputs and the place of the output in the graph."""
        if torch._C._current_graph_task_id() != -1:  # within a backward pass: a checkpoint computes it once more
            return
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            raise TypeError(f"{self}: expected one tensor, given by position, in and one tensor out")
        if not output.requires_grad:
            raise RuntimeError(
                f"{self}: its output needs no gradient; record the forward pass outside of no_grad, "
                "and checkpoint with use_reentrant=False"
            )
        for key, parameter in self.parameters.items():
            if module._parameters.get(key) is not parameter:
                raise ValueError(
                    f"{self}: another tensor took the place of its {key}, as torch.func.functional_call does; record "
                    "the module's own parameters, or use backward(parameters=...)"
                )
        if type(module) in RULES and not has_blocks(module, args[0], self.num_tasks):
            raise ValueError(
                f"{self}: expected rows in {self.num_tasks} equal task blocks, found an input {tuple(args[0].shape)}"
            )
        self.calls.append(_Call.of(args[0], output))

    def check_untouched(self) -> None:
        """Refuse inputs and outputs that were overwritten since the call."""
        if any(call.overwritten() for call in self.calls):
            raise RuntimeError(
                f"{self}: its input or output was changed in place after the call; "
                "use operations that are not in place around it, such as nn.ReLU(inplace=False)"
            )

    def task_gradients(self, grad_outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """(T, *shape) for each parameter; a layer called twice adds up, one that no loss used has None."""
        total: dict[str, Tensor] = {}
        for call, grad_output in zip(self.calls, grad_outputs, strict=True):
            if grad_output is None:
                continue
            gradients = self.rule(self.module, call.inputs, grad_output, self.num_tasks)
            total = {name: total[name] + g if name in total else g for name, g in gradients.items()}
        return [self._checked(name, parameter, total) if total else None for name, parameter in self.parameters.items()]

    def _checked(self, name: str, parameter: nn.Parameter, total: dict[str, Tensor]) -> Tensor:
        expected = (self.num_tasks, *parameter.shape)
        if name not in total or total[name].shape != expected:
            found = tuple(total[name].shape) if name in total else f"gradients of {', '.join(total)} only"
            raise ValueError(f"{self}: block_gradients should give {name} a gradient {expected}, found {found}")
        return total[name].to(parameter.dtype)  # autocast may have multiplied in less precision: sums of it follow

    def holds(self, other: str) -> bool:
        """Whether the layer of that name lies within this one."""
        return other != self.name and other.startswith(self.full_name(""))

    def full_name(self, key: str) -> str:
        """Name of its parameter `key` in the recorded module."""
        return f"{self.name}.{key}".lstrip(".")

    def __str__(self) -> str:
        return f"layer {self.name!r} ({type(self.module).__name__})"


class Tape:
    """The recorded layers of one module; made by `record`, used by `mtrl.backward`.

    :raises TypeError: for a layer with shared parameters that has no rule, and for one that normalises by statistics of
        the batch, unless its parameters belong to single tasks; for DataParallel and DistributedDataParallel.
    :raises ValueError: for a parameter that two layers share, and for fewer than one task.
    """

    def __init__(
        self, module: nn.Module, num_tasks: int, task_parameters: Parameters = (), trusted: bool = False
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a module to record, found a {type(module).__name__}; give the network itself")
        if num_tasks < 1:
            raise ValueError(f"expected at least one task, found {num_tasks}")
        self.num_tasks = num_tasks
        self.trusted = trusted
        self.task_parameters = parameters_in(task_parameters)
        self.layers: list[_Layer] = []
        _, self.frozen = trained_and_frozen(module.parameters())
        left_out = set(map(id, self.task_parameters))
        owners: dict[int, str] = {}
        for name, layer in module.named_modules():
            shared = {}
            if isinstance(layer, nn.DataParallel | nn.parallel.DistributedDataParallel):
                kind = type(layer).__name__
                raise TypeError(f"{kind} spreads the work where no tape sees it: record its .module (docs/mtrl.md)")
            if _mixes_rows(layer) and not _is_owned(layer, left_out):
                raise TypeError(
                    f"layer {name!r} ({type(layer).__name__}) mixes the rows of all tasks, as it normalises by "
                    "statistics of the batch: no block of rows yields a task's gradient then. Put it into eval mode, "
                    "replace it by LayerNorm, or use backward(parameters=...)"
                )
            for key, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
                if not parameter.requires_grad or id(parameter) in left_out:
                    continue
                full_name = f"{name}.{key}".lstrip(".")
                if id(parameter) in owners:
                    raise ValueError(f"parameter {full_name!r} is tied to {owners[id(parameter)]!r}: not supported")
                owners[id(parameter)] = full_name
                shared[key] = parameter
            if shared:
                self.layers.append(_Layer(name, layer, _rule_of(name, layer, shared), shared, num_tasks))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The shared parameters, in the order of `task_gradients`."""
        return [parameter for layer in self.layers for parameter in layer.parameters.values()]

    @property
    def names(self) -> list[str]:
        """Their names in the recorded module."""
        return [layer.full_name(key) for layer in self.layers for key in layer.parameters]

    @property
    def outputs(self) -> list[GradientEdge]:
        """Where in the graph to ask for gradients: the output of each recorded call."""
        return [call.output for layer in self.layers for call in layer.calls]

    def task_gradients(self, grad_outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each task's gradient of each shared parameter, (T, *shape), from the gradients at `outputs`.

        None for the parameters of a layer that no loss depends on. `check_uses` before.
        """
        remaining = iter(grad_outputs)
        gradients: list[Tensor | None] = []
        for layer in self.layers:
            gradients += layer.task_gradients([next(remaining) for _ in layer.calls])
        return gradients

    def check_uses(self, losses: Tensor) -> None:
        """Refuse losses that depend on a shared parameter in a way that the tape does not see, unless it is trusted.

        :raises ValueError: naming the parameter: if a path through the graph leads to it past the recorded calls of its
            layer, or if it has hooks, which would change its gradient in an ordinary backward pass.
        :raises RuntimeError: if the input of a layer was overwritten, or an output that is a view.
        """
        for layer in self.layers:
            layer.check_untouched()
        if self.trusted:
            return
        users = graph_of(losses)
        leaves = leaves_of(users)
        inputs: dict[Node | None, list[str]] = {losses.grad_fn: []}  # and the layers that they are inputs of
        for layer in self.layers:
            for call in layer.calls:
                inputs.setdefault(call.source, []).append(layer.name)
        for layer in self.layers:
            own = {call.output.node for call in layer.calls}
            # a layer may call others within it
            ends = {node for node, names in inputs.items() if not (names and all(map(layer.holds, names)))}
            for key, parameter in layer.parameters.items():
                if parameter._backward_hooks:
                    raise ValueError(
                        f"parameter {layer.full_name(key)!r} has a hook on its gradient, which no gradient of a tape "
                        "passes; remove it and change .grad afterwards, or use backward(parameters=...)"
                    )
                if id(parameter) in leaves and leads_past(users, leaves[id(parameter)], own, ends):
                    raise ValueError(
                        f"the losses depend on parameter {layer.full_name(key)!r} also past the recorded calls of its "
                        "layer, as by a penalty on weights or gradients, F.linear(x, layer.weight) or "
                        "layer.forward(x): the tape would leave that part out. Call the layer itself while recording "
                        "and leave weight penalties to the optimizer, or use backward(parameters=...)"
                    )


@contextmanager
def record(
    module: nn.Module, num_tasks: int, task_parameters: Parameters = (), trusted: bool = False
) -> Iterator[Tape]:
    """Record the forward pass of `module` on a batch whose rows lie in T task blocks.

    The tape stays usable after the block: losses may be formed later, and other networks may lie between.

    :param task_parameters: parameters that belong to single tasks (heads); their layers are left alone.
    :param trusted: leave out the look for uses of a parameter past its layer's recorded calls, some 0.3 ms, where the
        same forward pass and losses were looked at before.
    :raises TypeError, ValueError: for a module that a tape cannot hold, see `Tape`.
    :raises RuntimeError: if a layer with shared parameters was never called.
    """
    tape = Tape(module, num_tasks, task_parameters, trusted)
    # prepended: the layer's own output, before hooks of others replace it
    hooks = [layer.module.register_forward_hook(layer.remember, prepend=True) for layer in tape.layers]
    try:
        yield tape
    finally:
        for hook in hooks:
            hook.remove()
    for layer in tape.layers:
        if not layer.calls:
            raise RuntimeError(
                f"{layer} has trainable parameters but was never called while recording; freeze or use it, and record "
                "also the first call of a model of torch.compile, as later ones call no layers"
            )


def _rule_of(name: str, layer: nn.Module, shared: Iterable[str]) -> BlockRule:
    rule = rule_for(layer)
    if rule is not None and set(shared) <= {"weight", "bias"}:  # torch.nn.utils.prune and the like add their own
        return rule
    if rule is None and hasattr(layer, "block_gradients"):
        return type(layer).block_gradients  # type: ignore[attr-defined]
    raise TypeError(
        f"layer {name!r} ({type(layer).__name__}) with parameters {', '.join(shared)} has no rule for per-task "
        f"gradients; expected {', '.join(t.__name__ for t in RULES)} or a layer with a method block_gradients. "
        "Name its parameters in task_parameters if they belong to single tasks, or use backward(parameters=...)"
    )


def _mixes_rows(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)


def _is_owned(layer: nn.Module, task_parameters: set[int]) -> bool:
    """Whether it belongs to a single task, so that all rows that it sees are of one task."""
    own = [id(parameter) for parameter in layer.parameters(recurse=False)]
    return bool(own) and task_parameters.issuperset(own)
