"""What an aggregator is: T task gradients go in, one update comes out.

Three kinds, by what a method must see. A `LossAggregator` weighs the losses and costs one ordinary backward pass; a
`GramianAggregator` also sees all inner products of the task gradients; a plain `Aggregator` sees the gradients.
Every method answers on the scale of the mean gradient, so that exchanging methods needs no other learning rate.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtrl.precision import float32_products
from mtrl.rows import HALF, Rows, widened

Reduction = Literal["mean", "sum"]


class Aggregator(nn.Module, ABC):
    """Turn the Jacobian of T losses into one update of the shared parameters.

    State that training changes belongs into buffers or `get_extra_state`: it is saved and moved with the agent.
    Every constructor parameter is kept in an attribute of the same name.

    :param reduction: "mean" averages over tasks, as all methods here do by default; "sum" is T times that.
    """

    reweights: ClassVar[bool] = True  # False: the update is the plain mean (or sum), one backward pass serves all
    # True: may be part of a captured CUDA graph: its state is in tensors that change in place, and no host is asked (no
    # `.item()`, no `if` on a tensor, no counter in Python). Each class says so for itself: it is not inherited.
    capturable: ClassVar[bool] = False
    non_negative: ClassVar[bool] = False  # True: for losses that are never below 0, as an actor's in SAC can be
    # Independent batches that a method would have of each task: MTSAC deals its rows out, and sets `batches` to it.
    wanted_batches: ClassVar[int] = 1
    batches: int = 1  # 2: there are 2T losses, those of the two batches of a task side by side

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.capturable = vars(cls).get("capturable", False)

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}; found {reduction!r}")
        self.reduction = reduction

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Start over for this many tasks and shared parameters: state only, options stay as constructed."""

    @abstractmethod
    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Update of the shared parameters, in the direction of a gradient (an optimizer descends along it)."""

    def after_step(self, losses: Float[Tensor, " tasks"]) -> None:
        """Look at the losses of the same batch after the optimizer step."""

    @property
    def looks_back(self) -> bool:
        """Whether `after_step` does something, which costs the caller another forward pass."""
        return type(self).after_step is not Aggregator.after_step

    def __call__(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """Check the shapes once for all methods, then aggregate; TF32 and autocast around it change nothing.

        A Jacobian in float16 or bfloat16 is widened to float32, and the update given back in its own precision.

        :raises ValueError: unless the Jacobian is (T, P) and the losses are (T,), with at least one task.
        :raises TypeError: unless both are tensors of real floating-point numbers.
        """
        for given in (jacobian, losses):
            if not isinstance(given, Tensor) or not given.is_floating_point():
                kind = f"one of {given.dtype}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
                raise TypeError(f"expected Jacobian and losses as tensors of floating-point numbers; found {kind}")
        if jacobian.ndim != 2 or not len(jacobian) or losses.shape != jacobian.shape[:1]:
            raise ValueError(
                "expected a Jacobian (tasks, params) and one loss per task; "
                f"found a Jacobian {tuple(jacobian.shape)} and losses {tuple(losses.shape)}"
            )
        with torch.autocast(jacobian.device.type, enabled=False), float32_products(tf32=False):
            update: Tensor = super().__call__(widened(jacobian), widened(losses))
        self._check("an update of the shared parameters", jacobian.shape[1:], update)
        return update.to(jacobian.dtype) if jacobian.dtype in HALF else update

    def _check(self, what: str, expected: tuple[int, ...], found: Tensor) -> None:
        if found.shape != expected:
            name = type(self).__name__
            raise ValueError(f"{name} should give {what}, {tuple(expected)}; found {tuple(found.shape)} (self.reduce?)")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What torch's modules do to their tensors in `to`, `cuda`, `bfloat16` ...: state moves with the model around it
        # and keeps its own precision, which is the method's.
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # State takes its shape at `reset` or at the first call: one that has none yet takes that of the saved one.
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and 0 in (buffer.numel(), saved.numel()):
                self._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reduce(self, per_task: Float[Tensor, "tasks *rest"]) -> Float[Tensor, "*rest"]:
        """Mean or sum over the tasks, whichever `reduction` says, and the mean over their batches."""
        return per_task.mean(0) if self.reduction == "mean" else per_task.sum(0) / self.batches

    def hyperparameters(self) -> dict[str, Any]:
        """Return constructor arguments as JSON values: `type(self)(**self.hyperparameters())` is a fresh twin.

        :raises TypeError: if the class does not keep one of them.
        """
        names = list(inspect.signature(type(self)).parameters)
        if missing := [name for name in names if not hasattr(self, name)]:
            kind = type(self).__name__
            raise TypeError(f"{kind} should keep its option {missing[0]}: self.{missing[0]} = {missing[0]} in __init__")
        return {name: getattr(self, name) for name in names}


class GramianAggregator(Aggregator):
    """A method that needs only the inner products of the task gradients: d = w @ J."""

    apart: bool = False  # True: `weights` sees a Gramian for each parameter, (P, T, T), and gives weights (P, T)

    @abstractmethod
    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Weight of each task's gradient in the update, from the float64 Gramian."""

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Combine the rows of the Jacobian with the weights."""
        gramian, rows = Rows([jacobian]).measured(self.apart)
        return rows.combine(self.checked_weights(gramian, losses))[0]

    def checked_weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return `weights`.

        :raises ValueError: for another shape, which could be taken for weights of each parameter.
        """
        weights = self.weights(gramian, losses)
        self._check("a weight for each task", gramian.shape[:-1], weights)
        return weights


class LossAggregator(Aggregator):
    """A method that weighs the losses without seeing a gradient: one backward pass of `w @ losses`."""

    @abstractmethod
    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Weight of each task's loss."""

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """Combine the rows of the Jacobian with the weights (`mtrl.backward` does it without a Jacobian)."""
        return self.weights(losses).to(jacobian.dtype) @ jacobian
