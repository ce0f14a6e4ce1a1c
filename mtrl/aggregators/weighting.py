"""What the weightings by losses share, and surgery on top of one: `uncertainty:pcgrad`."""

import inspect
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator

SMALLEST = 1e-8  # of a loss: one of 0 would have an infinite weight
LEAST = 1e-300  # of a sum of weights, where all are 0


class Weighting(LossAggregator):
    """A weighting that has a meaning for losses from 0 on only; weights have the sum 1 (or T)."""

    non_negative: ClassVar[bool] = True

    def seen(self, losses: Float[Tensor, " tasks"]) -> Float64[Tensor, " tasks"]:
        """Return the losses, at least `SMALLEST`; negative ones are NaN.

        :raises ValueError: naming the task of a negative loss, on a CPU: elsewhere a look would make the program wait.
        """
        values = losses.detach().double()
        if values.device.type == "cpu" and (negative := values.numpy() < 0).any():
            task = int(negative.argmax())
            raise ValueError(
                f"{type(self).__name__} expects losses from 0 on; found {values[task]:.3g} for task {task}. "
                "Take a method that does not look at losses, such as mean or pcgrad."
            )
        return torch.where(values < 0, torch.nan, values.clamp(min=SMALLEST))


class Weighted(GramianAggregator):
    """Weigh the losses, then reconcile the gradients of the weighted losses."""

    weighting: LossAggregator
    _asking: bool = False  # the method, whose first call may reset it: the weighting has seen the losses already

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Start over with both."""
        super().reset(num_tasks, num_params)
        if not self._asking:
            self.weighting.reset(num_tasks, num_params)

    def weights(
        self, gramian: Float[Tensor, "*pieces tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, "*pieces tasks"]:
        """Return what the method makes of gradients w_i g_i with w of mean 1, in terms of the g_i."""
        w = len(losses) * self.weighting.weights(losses).to(gramian.dtype)
        self._asking = True
        try:
            found: Tensor = super().weights(w[:, None] * gramian * w, w * losses)  # type: ignore[safe-super]  # see `wrapped`
        finally:
            self._asking = False
        return w * found

    def after_step(self, losses: Float[Tensor, " tasks"]) -> None:
        """Let both look at the losses."""
        self.weighting.after_step(losses)
        super().after_step(losses)


@cache
def weighted(kind: type[LossAggregator], method: type[Aggregator], called: str) -> type[Weighted]:
    """Make the wrapper that weighs by `kind` before `method`; both draw with one seed.

    :param called: the name of `kind`, which begins that of an option that `method` has, too: `uncertainty_rate`.

    :raises ValueError: if `method` has a weighting already, or wants several batches of each task.
    """
    if method.wanted_batches > 1:
        raise ValueError(f"{kind.__name__} before {method.__name__}: expected a method with one loss per task.")
    if issubclass(method, Weighted):
        raise ValueError(
            f"{kind.__name__} before {method.__name__}: expected one weighting before a method. Leave one out."
        )
    parameters, theirs = inspect.signature(kind).parameters, inspect.signature(method).parameters
    seeded = "seed" in parameters
    named = {
        f"{called}_{name}" if name in theirs else name: parameters[name]
        for name in parameters
        if name != "reduction" and not (name == "seed" and name in theirs)
    }

    def __init__(self: Any, **options: Any) -> None:
        given = {name: options.pop(name) for name in named}
        super(made, self).__init__(**options)
        seed = {"seed": options["seed"]} if seeded and "seed" in options else {}
        self.weighting = kind(**{p.name: given[name] for name, p in named.items()}, **seed)
        for name, value in given.items():
            setattr(self, name, value)

    @property  # type: ignore[misc]
    def looks_back(self: Any) -> bool:
        return any(each.after_step is not Aggregator.after_step for each in (kind, method))

    claim, _, rest = (inspect.getdoc(kind) or kind.__name__).partition("\n")
    told = {name: text for name, _, text in (part.partition(":") for part in rest.split("\n:param ")[1:])}
    about = [f":param {name}:{told[p.name]}" for name, p in named.items() if p.name in told]
    body = {
        "__init__": __init__,
        "__signature__": inspect.Signature([p.replace(name=n, kind=p.KEYWORD_ONLY) for n, p in named.items()]),
        "__doc__": "\n".join([claim, "", *about]),
        "looks_back": looks_back,
        "non_negative": kind.non_negative,
    }
    made: Any = type(kind.__name__, (Weighted,), body)
    return made
