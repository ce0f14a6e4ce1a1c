"""TorchJD's aggregators as ours: one scale, an own seed, state that is saved. Needs the extra `[torchjd]`."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torchjd.aggregation
from jaxtyping import Float
from torch import Tensor, nn

from mtrl.aggregators.base import Aggregator, Reduction
from mtrl.aggregators.shared import MOST_SEED, begin, whole_in_range
from mtrl.aggregators.wrapped import constructor

GIVEN = ("n_tasks",)  # what the adapter knows itself
NARROW = (1e-15, 1e15)  # largest entries of a Jacobian that TorchJD may square and sum in float32
KINDS: dict[Any, Any] = {  # an option's type in TorchJD -> its type here; options of other types keep their defaults
    int: int,
    int | None: int | None,
    float: float,
    float | Tensor: float,
    Tensor: list[float],
    Tensor | None: list[float] | None,
    Literal["min", "median", "rmse"]: Literal["min", "median", "rmse"],
}
BASES = ("Aggregator", "GramianWeightedAggregator", "WeightedAggregator")


class TorchJDAggregator(Aggregator):
    """Base of the adapters that `adapt` makes.

    TorchJD's methods have different scales. The update is divided by TorchJD's answer to identical unit gradients,
    so that a method whose answer grows with the gradients answers, here too, with their mean where the tasks agree (of
    FairGrad and NashMTL, which choose their own length, that holds for unit gradients). TorchJD draws from torch's
    global generator; during a call that is the adapter's own. TorchJD solves on the CPU: a convenience, no fast path.
    """

    wrapped: ClassVar[type[nn.Module]]

    def __init__(self, reduction: Reduction = "mean", seed: int = 0, **options: Any) -> None:
        super().__init__(reduction)
        self.seed = whole_in_range("seed", seed, 0, MOST_SEED)
        self.options = options
        self.numbers = any(isinstance(_tensor(value), Tensor) for value in options.values())  # they are float64
        for name, value in options.items():
            setattr(self, name, value)
        self.num_tasks = self.num_params = 0  # until the first reset
        self.dtype = torch.get_default_dtype()
        self._build(2)  # find options out of range and missing packages now

    def reset(self, num_tasks: int, num_params: int) -> None:
        """Make a new object of TorchJD's, and begin its random draws again."""
        self.num_params = num_params
        self._begin(num_tasks)

    def forward(
        self, jacobian: Float[Tensor, "tasks params"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " params"]:
        """TorchJD's answer, on our scale."""
        begin(self, self.num_tasks, *jacobian.shape)
        largest = jacobian.abs().amax()  # TorchJD waits for the device in any case
        if not largest.isfinite():  # some of its solvers raise
            return jacobian.new_full(jacobian.shape[1:], torch.nan)
        self.dtype = jacobian.dtype
        fits = bool(largest == 0) or NARROW[0] < largest < NARROW[1]
        update = self._ask(self.inner, jacobian if fits else jacobian.double()).to(jacobian.dtype) * self.factor
        return update if self.reduction == "mean" else len(jacobian) * update

    def get_extra_state(self) -> dict[str, Tensor]:
        """Random state, sizes, and whatever numbers TorchJD's object remembers."""
        if not self.num_tasks:
            return {}
        remembered = {key: torch.as_tensor(_exact(value)).clone() for key, (_, _, value) in self._memory().items()}
        sizes = torch.tensor([self.num_tasks, self.num_params])
        kept = {"generator": self.random_state, "dtype": torch.empty(0, dtype=self.dtype), "sizes": sizes}
        return kept | remembered

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Continue where the saved run stopped, with its number of tasks if this object has none yet.

        :raises ValueError: if it was reset for another number of tasks.
        """
        if not state:  # saved before the first call
            self.num_tasks = 0
            self._modules.pop("inner", None)
            return
        if "sizes" in state:
            num_tasks, num_params = state["sizes"].tolist()
            begin(self, self.num_tasks, num_tasks, num_params)
        self.dtype = state["dtype"].dtype
        # one call, so that TorchJD builds what it builds late
        self._ask(self.inner, torch.eye(self.num_tasks, self.num_params, dtype=self.dtype))
        for key, (owner, name, present) in self._memory().items():
            if key in state:
                setattr(owner, name, _like(present, state[key]))
        self.random_state = state["generator"].cpu()

    def _begin(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks
        self.inner, probe = self._build(num_tasks), self._build(num_tasks)
        self.random_state = torch.Generator().manual_seed(self.seed).get_state()
        answer = self._ask(probe, torch.ones(num_tasks, 2, dtype=torch.float64)).mean()
        self.factor = 1 / float(answer) if answer.isfinite() and answer > 1e-6 else 1.0
        self.random_state = torch.Generator().manual_seed(self.seed).get_state()

    def _build(self, num_tasks: int) -> nn.Module:
        given = {name: num_tasks for name in GIVEN if name in inspect.signature(self.wrapped).parameters}
        try:
            return self.wrapped(**given, **{name: _tensor(value) for name, value in self.options.items()})
        except ImportError as error:
            raise ImportError(f"{error} With this project: pip install -c constraints.txt -e '.[torchjd]'") from error

    def _ask(self, inner: nn.Module, jacobian: Tensor) -> Tensor:
        if len(jacobian) == 1:  # nothing to reconcile, and NashMTL raises
            return jacobian[0].clone()
        outside = torch.get_rng_state()
        torch.set_rng_state(self.random_state)
        try:
            answer: Tensor = inner(jacobian.double() if self.numbers else jacobian)
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(outside)
        return answer.to(jacobian.dtype)

    def _memory(self) -> dict[str, tuple[nn.Module, str, Any]]:
        """Every number and array that TorchJD's modules hold, with its owner."""
        return {
            f"{path}.{name}": (module, name, value)
            for path, module in self.inner.named_modules()
            for name, value in [*vars(module).items(), *module._buffers.items()]
            if isinstance(value, int | float | np.ndarray | Tensor) and not isinstance(value, bool)
        }


def available() -> list[str]:
    """Names of the aggregators of the installed TorchJD."""
    kinds = {name: getattr(torchjd.aggregation, name) for name in torchjd.aggregation.__all__}
    base = torchjd.aggregation.Aggregator
    return [n for n, k in kinds.items() if n not in BASES and isinstance(k, type) and issubclass(k, base)]


def adapt(name: str) -> type[TorchJDAggregator]:
    """Make a class of ours for TorchJD's `name`, with `reduction`, `seed` and those of its options in `KINDS`."""
    wrapped = getattr(torchjd.aggregation, name)
    known = inspect.signature(wrapped, eval_str=True).parameters.values()
    options = [
        p.replace(annotation=KINDS[p.annotation]) for p in known if p.annotation in KINDS and p.name not in GIVEN
    ]
    ours = inspect.signature(TorchJDAggregator.__init__, eval_str=True).parameters
    claim = (inspect.getdoc(wrapped) or "").split("\n\n")[0].replace("\n", " ")
    body = {
        **constructor([ours["reduction"], ours["seed"], *options], TorchJDAggregator.__init__),
        "__doc__": f"TorchJD's {name}, on the scale of the mean gradient.\n\nIn TorchJD's words: {claim}",
        "__module__": __name__,
        "wrapped": wrapped,
    }
    return type(f"TorchJD{name}", (TorchJDAggregator,), body)


def _tensor(value: Any) -> Any:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return torch.tensor(value, dtype=torch.float64) if is_list else value


def _like(present: Any, saved: Tensor) -> Any:
    if isinstance(present, Tensor):
        return saved.to(present.device, copy=True)
    return saved.cpu().numpy().copy() if isinstance(present, np.ndarray) else type(present)(saved.item())


def _exact(value: Any) -> Any:
    return np.float64(value) if isinstance(value, float) else value
