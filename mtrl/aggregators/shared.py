"""What several methods share: visiting orders, lengths from the Gramian, counted fallbacks, checked options."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtrl.aggregators.base import Aggregator, GramianAggregator, Reduction
from mtrl.diagnostics import gradient_norms

MOST_SEED = 2**64 - 1  # that torch's generators take
ROUNDING = 1e-13  # of a squared length, relative to that of its terms laid end to end: below it is rounding in float64


class Drawing(Aggregator):
    """A method that draws random numbers.

    The generator is the method's own, begins again at `reset`, and is saved with the state. It moves with the
    aggregator (`.to`) and draws where it is, so that a captured CUDA graph can draw. Generators of different devices do
    not translate: after a move, or with a state of another kind of device, the draws start over.
    """

    def __init__(self, reduction: Reduction = "mean", seed: int = 0) -> None:
        super().__init__(reduction)
        self.seed = whole_in_range("seed", seed, 0, MOST_SEED)
        self.generator = torch.Generator().manual_seed(self.seed)

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Begin the sequence of draws again."""
        self.generator.manual_seed(self.seed)

    def get_extra_state(self) -> Tensor:
        """State of the generator, so that a resumed run draws the same numbers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continue to draw where the saved run stopped, if it drew on the same kind of device."""
        if state.shape == self.generator.get_state().shape:
            self.generator.set_state(state.cpu())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # what torch's modules do to their tensors in `to`, `cuda`, `double` ...: see where it sends one of ours
        device = fn(torch.empty(0, device=self.generator.device)).device
        if device != self.generator.device:
            self.generator = torch.Generator(device).manual_seed(self.seed)
        return super()._apply(fn, recurse)


class Ordered(Drawing):
    """A method in which each task visits the others one by one, in an order drawn afresh for that task and call."""

    def draw_orders(self, num_tasks: int) -> Int[Tensor, "tasks visits"]:
        """For each task an own random order of the T - 1 others, on the device of the generator."""
        device = self.generator.device
        keys = torch.rand(num_tasks, num_tasks, generator=self.generator, dtype=torch.float64, device=device)
        keys.diagonal().fill_(2.0)  # not fill_diagonal_, which no compiled graph can hold
        return keys.argsort(dim=1)[:, :-1]  # the task itself comes last and is left out


class SolverAggregator(GramianAggregator):
    """A method that solves a small problem at each call and counts in `fallbacks` where that failed."""

    fallbacks: Tensor

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("fallbacks", torch.zeros((), dtype=torch.int64))

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Count from zero."""
        self.fallbacks = torch.zeros_like(self.fallbacks)

    def count(self, failed: Tensor) -> None:
        """One more fallback if `failed`; nobody waits for the answer."""
        self.fallbacks += failed

    def unless(
        self, failed: Bool[Tensor, ""], gramian: Float[Tensor, "tasks tasks"], weights: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the weights on the scale asked for, or 0 if `failed`: a fallback, unless all gradients are zero."""
        self.count(failed & (gramian.diagonal() > 0).any())
        return on_scale(torch.where(failed, 0.0, weights), self.reduction)


def on_scale(weights: Float[Tensor, " tasks"], reduction: Reduction) -> Float[Tensor, " tasks"]:
    """Weights on the scale of the mean, or T times that."""
    return weights if reduction == "mean" else len(weights) * weights


def of_directions(gramian: Float[Tensor, "tasks tasks"], units: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
    """Weights of the gradients from those of their directions, times the longest length; 0 for a zero gradient."""
    norms = gradient_norms(gramian)
    return torch.where(norms > 0, units * (norms.amax() / norms), 0.0 * units)


def length(gramian: Float[Tensor, "tasks tasks"], weights: Float[Tensor, " tasks"]) -> Float[Tensor, ""]:
    """|weights @ J|, or 0 where that is nothing but rounding."""
    squared = weights @ gramian @ weights
    terms = (weights.abs() @ gramian.diagonal().clamp(min=0).sqrt()).square()
    return torch.where(squared > ROUNDING * terms, squared, 0.0 * squared).sqrt()


def with_length(
    gramian: Float[Tensor, "tasks tasks"], weights: Float[Tensor, " tasks"], target: Float[Tensor, ""]
) -> Float[Tensor, " tasks"]:
    """Return the weights, scaled so that the update has the target length; 0 if it has no direction."""
    present = length(gramian, weights)
    return weights * torch.where(present == 0, 0.0, target / present)


def with_length_of_mean(
    gramian: Float[Tensor, "tasks tasks"], weights: Float[Tensor, " tasks"]
) -> Float[Tensor, " tasks"]:
    """Return the weights, scaled so that the update is as long as the mean of the gradients."""
    return with_length(gramian, weights, length(gramian, torch.full_like(weights, 1 / len(weights))))


def in_range(
    name: str,
    value: float | int,
    low: float | int,
    high: float | int = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> float:
    """Return the option's value, if it lies between the bounds (`above`, `below`: the bound itself is not allowed).

    :raises ValueError: naming the option, the range and the value found.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number; found {value!r}")
    fits = (low < value if above else low <= value) and (value < high if below else value <= high)
    if not (fits and math.isfinite(value)):
        ends = f"{'(' if above else '['}{low:g}, {high:g}{')' if below or math.isinf(high) else ']'}"
        raise ValueError(f"{name} must lie in {ends}; found {value!r}")
    return float(value)


def whole_in_range(name: str, value: int, low: int, high: float = math.inf) -> int:
    """Return the option's value, if it is a whole number from `low` to `high`.

    :raises ValueError: naming the option, the range and the value found.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number; found {value!r}")
    in_range(name, value, low, high)
    return int(value)  # not the float, which does not hold every whole number


def yes_or_no(name: str, value: bool) -> bool:
    """Return the option's value, if it is True or False: the text "false" would count as true.

    :raises ValueError: naming the option and the value found.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; found {value!r}")
    return value


def check_tasks(expected: int, found: int, method: Aggregator, what: str = "tasks") -> None:
    """Refuse a number of tasks, or of whatever else a state has rows or columns for, other than that of the state.

    :raises ValueError: saying which numbers, and that `reset` starts over.
    """
    if expected != found:
        raise ValueError(
            f"{type(method).__name__} was reset for {expected} {what} and found {found}: "
            f"its state belongs to those {what}. Call reset(num_tasks, num_params) to start over"
        )


def begin(method: Aggregator, known: int, num_tasks: int, num_params: int = 0) -> None:
    """Reset a method at its first call; at later ones refuse another number of tasks than that of its state.

    :param known: for how many tasks it has a state; 0: it has none yet.
    """
    if known:
        check_tasks(known, num_tasks, method)
    else:
        method.reset(num_tasks, num_params)
