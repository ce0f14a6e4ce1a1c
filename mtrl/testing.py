"""What every aggregator is held to, ours and yours; and whether a tape may be used for your model and losses.

    from mtrl.testing import Promises, check_aggregator, check_tape

    def test_my_method():
        check_aggregator(MyMethod, Promises(permutation=False))

    def test_my_network():
        check_tape(network, num_tasks, lambda: my_losses(network(batch)))

Each check of an aggregator runs on families of matrices that make methods fail: conflicting, aligned, dependent, zero,
at scales from 1e-10 to 1e10. It raises AssertionError with the family, the number of tasks, what was expected and what
was found.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtrl.aggregators.base import Aggregator
from mtrl.gradients import check_losses, per_task_gradients
from mtrl.parameters import Parameters
from mtrl.tape import record

Factory = Callable[[], Aggregator]

SIZES = ((1, 4), (2, 6), (5, 12), (8, 5))  # (tasks, parameters): also more tasks than parameters
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}  # more than the two routes to a gradient can differ by, relative
FAMILIES = (
    "random", "aligned", "orthogonal", "conflicting", "opposite", "duplicates", "paired", "low rank", "balanced",
    "uneven", "ill conditioned", "one zero row", "zero",
)  # fmt: skip


@dataclass(frozen=True)
class Promises:
    """What a method claims beyond finite answers of the right shape; the defaults claim the most common ones."""

    non_conflicting: Literal["always", "two tasks", "no"] = "no"
    """The update's product with no task's gradient is negative; excused where the method counts a fallback."""
    permutation: bool = True
    """Other numbers for the tasks, same update."""
    homogeneous: bool = True
    """Gradients twice as long, update twice as long."""
    mean_where_agreed: bool = True
    """Where all tasks have the same gradient, the update is that gradient."""
    never_waits: bool = True
    """No operation that makes the program wait for a device."""


def matrix(family: str, num_tasks: int, num_params: int, seed: int = 0) -> Float[Tensor, "tasks params"]:
    """Return a Jacobian of the named family, in float64.

    :raises ValueError: for a name that is not in `FAMILIES`.
    """
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {', '.join(FAMILIES)}; found {family!r}")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_tasks, num_params, generator=generator, dtype=torch.float64)
    direction = torch.randn(num_params, generator=generator, dtype=torch.float64)
    number = torch.arange(num_tasks)
    signs = (-1.0) ** number[:, None]
    lengths = 10 ** torch.linspace(-3, 3, num_tasks, dtype=torch.float64)[:, None]
    axes = 10 ** torch.linspace(0, -4, num_params, dtype=torch.float64)
    return {
        "random": rows,
        "aligned": direction + 0.1 * rows,
        "orthogonal": lengths ** (1 / 6) * torch.eye(num_tasks, num_params, dtype=torch.float64),
        "conflicting": signs * direction + 0.1 * rows,
        "opposite": signs * direction,
        "duplicates": direction.expand(num_tasks, -1).clone(),
        "paired": rows[number // 2],
        "low rank": rows[:, :1] * direction + rows[:, 1:2] * direction.flip(0),
        "balanced": rows - rows.mean(0),
        "uneven": lengths * rows,
        "ill conditioned": rows * axes,
        "one zero row": rows * (number != num_tasks // 2)[:, None],
        "zero": torch.zeros_like(rows),
    }[family]


def check_aggregator(factory: Factory, promises: Promises | None = None) -> None:
    """Hold the aggregators that `factory()` builds to `promises` and to what every aggregator owes.

    :raises AssertionError: at the first check that fails.
    """
    for check in CHECKS.values():
        check(factory, promises or Promises())


def check_tape(
    module: nn.Module, num_tasks: int, losses: Callable[[], Tensor], task_parameters: Parameters = ()
) -> None:
    """Compare the gradients of each task from a tape of `module` with those of one backward pass per loss, once.

    It finds what `mtrl.backward` cannot see: rows that are mixed over the batch, rows that do not lie in task blocks,
    losses that hold some of another task's.

    :param losses: computes the (T,) losses by a forward pass of `module`, without autocast, on a batch with no two
        tasks alike.
    :param task_parameters: as for `mtrl.record`.
    :raises AssertionError: naming tasks and parameters whose gradients differ by more than rounding.
    """
    with record(module, num_tasks, task_parameters) as tape:
        values = losses()
    check_losses(values, tape)
    tape.check_uses(values)
    expected = per_task_gradients(values, tape.parameters)
    pieces = tape.task_gradients(torch.autograd.grad(values.sum(), tape.outputs, allow_unused=True))
    differ, whole = [], expected.norm(dim=1)
    parts = expected.split([parameter.numel() for parameter in tape.parameters], dim=1)
    for name, parameter, piece, rows in zip(tape.names, tape.parameters, pieces, parts, strict=True):
        found = torch.zeros_like(rows) if piece is None else piece.flatten(1).to(rows.dtype)
        errors, lengths = (found - rows).norm(dim=1), rows.norm(dim=1) + 1e-3 * whole
        wrong = ~(errors <= ROUNDING.get(parameter.dtype, 0.05) * lengths)
        differ += [f"{name} of task {t}: by {errors[t] / lengths[t]:.1e}" for t in wrong.nonzero().flatten().tolist()]
    _expect(
        not differ,
        f"tape of {type(module).__name__}",
        "from task t's block of rows the gradient of loss t",
        f"others, relative to it: {'; '.join(differ[:6])}{' ...' if len(differ) > 6 else ''}. Are rows mixed over the "
        "batch, not in blocks of one task each, or losses made of several tasks' rows? backward(parameters=...) is "
        "right in any case",
    )


def check_answers(factory: Factory, promises: Promises) -> None:
    """Finite, of the parameters' shape and type, on every family, scale and precision."""
    for where, jacobian in _jacobians():
        for exponent, dtype in ((-10, torch.float32), (10, torch.float32), (-10, torch.float64), (10, torch.float64)):
            rows = (10.0**exponent * jacobian).to(dtype)
            update, at = _answer(factory, rows), f"{where}, scale 1e{exponent}, {dtype}"
            _expect(update.shape == rows.shape[1:], at, f"shape {tuple(rows.shape[1:])}", tuple(update.shape))
            _expect(update.dtype == dtype, at, f"type {dtype}", update.dtype)
            _expect(bool(update.isfinite().all()), at, "finite numbers", update)


def check_non_conflicting(factory: Factory, promises: Promises) -> None:
    """Check that the update harms no task."""
    if promises.non_conflicting == "no":
        return
    for where, jacobian in _jacobians():
        if promises.non_conflicting == "two tasks" and len(jacobian) > 2:
            continue
        aggregator = _fresh(factory, jacobian)
        update = aggregator(jacobian, _losses(jacobian))
        norms = jacobian.norm(dim=1)
        lowest = (jacobian @ update + 1e-7 * norms * norms.amax()).amin()
        excused = bool(getattr(aggregator, "fallbacks", torch.tensor(0)) > 0)
        _expect(excused or bool(lowest >= 0), where, "no negative product", jacobian @ update)


def check_permutation(factory: Factory, promises: Promises) -> None:
    """Check that the order in which the tasks are numbered does not matter."""
    if not promises.permutation:
        return
    for where, jacobian in _jacobians("random", "aligned", "conflicting", "uneven", "one zero row"):
        renumbered = _fresh(factory, jacobian)(jacobian.roll(1, 0), _losses(jacobian).roll(1))
        _expect_close(renumbered, _answer(factory, jacobian), f"{where}, tasks renumbered")


def check_homogeneity(factory: Factory, promises: Promises) -> None:
    """Check that the update grows with the gradients, also after some steps."""
    if not promises.homogeneous:
        return
    for where, jacobian in _jacobians("random", "conflicting", "uneven", "one zero row"):
        plain = _walk(_fresh(factory, jacobian), jacobian, steps=2)[-1]
        for scale in (2.0**-20, 2.0**20):
            scaled = _walk(_fresh(factory, jacobian), scale * jacobian, steps=2)[-1]
            _expect_close(scaled, scale * plain, f"{where}, gradients times {scale:g}")


def check_scale(factory: Factory, promises: Promises) -> None:
    """Where all tasks agree, the update is the mean gradient: methods can be exchanged at one learning rate."""
    if promises.mean_where_agreed:
        for where, jacobian in _jacobians("duplicates"):
            _expect_close(_answer(factory, jacobian), jacobian.mean(0), where)


def check_determinism(factory: Factory, promises: Promises) -> None:
    """After `reset`, and in a second object, the same updates come again."""
    for where, jacobian in _jacobians("random", "conflicting"):
        aggregator = _fresh(factory, jacobian)
        first = _walk(aggregator, jacobian)
        aggregator.reset(*jacobian.shape)
        for other, name in ((aggregator, "after reset"), (_fresh(factory, jacobian), "twin")):
            _expect_equal(_walk(other, jacobian), first, f"{where}, {name}")


def check_state(factory: Factory, promises: Promises) -> None:
    """Check that a saved and loaded object goes on bit for bit as the other does."""
    for where, jacobian in _jacobians("random", "conflicting"):
        rows = jacobian.float() if where.startswith("random") else jacobian
        original, restored = _fresh(factory, rows), _fresh(factory, rows)
        _walk(original, rows)
        restored.load_state_dict(copy.deepcopy(original.state_dict()))
        _expect_equal(_walk(restored, rows), _walk(original, rows), f"{where}, after loading")


def check_non_finite(factory: Factory, promises: Promises) -> None:
    """NaN or infinity in a gradient shows in the update, raises nothing, and is forgotten by the next call."""
    for where, jacobian in _jacobians("random"):
        for bad in (torch.nan, torch.inf):
            aggregator, broken = _fresh(factory, jacobian), jacobian.clone()
            broken[-1, 0] = bad
            update = aggregator(broken, _losses(jacobian))
            _expect(not update.isfinite().all(), f"{where}, {bad} in it", "an update with it", update)
            aggregator.after_step(_losses(jacobian) * bad)
            aggregator(jacobian, _losses(jacobian) * bad)
            update = aggregator(jacobian, _losses(jacobian))
            _expect(bool(update.isfinite().all()), f"{where}, {bad} before", "finite numbers", update)


def check_no_waiting(factory: Factory, promises: Promises) -> None:
    """No number is brought to Python, and no shape depends on a value: on a device, that would wait for it."""
    if not promises.never_waits:
        return
    for _, jacobian in _jacobians("conflicting"):
        aggregator = _fresh(factory, jacobian)
        with _NoWaiting(type(aggregator).__name__):
            aggregator(jacobian, _losses(jacobian))
            aggregator.after_step(0.9 * _losses(jacobian))


CHECKS: dict[str, Callable[[Factory, Promises], None]] = {
    "answers": check_answers,
    "non-conflicting": check_non_conflicting,
    "permutation": check_permutation,
    "homogeneity": check_homogeneity,
    "scale": check_scale,
    "determinism": check_determinism,
    "state": check_state,
    "non-finite": check_non_finite,
    "no waiting": check_no_waiting,
}


class _NoWaiting(TorchDispatchMode):
    """Refuses the operations whose result the program must have before it can go on."""

    WAITING = frozenset("_local_scalar_dense is_nonzero nonzero equal masked_select unique2 linalg_svd".split())

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func.overloadpacket.__name__
        _expect(operation not in self.WAITING, self.name, "nothing that waits for a device", operation)
        return func(*args, **(kwargs or {}))


def _jacobians(*families: str) -> Iterator[tuple[str, Tensor]]:
    for family in families or FAMILIES:
        for seed, (num_tasks, num_params) in enumerate(SIZES):
            yield f"{family}, {num_tasks} tasks, {num_params} parameters", matrix(family, num_tasks, num_params, seed)


def _fresh(factory: Factory, jacobian: Tensor) -> Aggregator:
    aggregator = factory()
    aggregator.reset(*jacobian.shape)
    return aggregator


def _answer(factory: Factory, jacobian: Tensor) -> Tensor:
    """Return a new aggregator's first update."""
    return _fresh(factory, jacobian)(jacobian, _losses(jacobian))


def _losses(jacobian: Tensor) -> Tensor:
    return torch.linspace(1, 2, len(jacobian), dtype=jacobian.dtype)


def _walk(aggregator: Aggregator, jacobian: Tensor, steps: int = 3) -> list[Tensor]:
    """Take some steps on the same gradients, with losses that fall at different speeds."""
    updates = []
    for step in range(steps):
        losses = _losses(jacobian) ** -step
        updates.append(aggregator(jacobian, losses))
        aggregator.after_step(losses**1.5)
    return updates


def _expect(holds: bool | Tensor, where: str, expected: object, found: object) -> None:
    if not holds:
        raise AssertionError(f"{where}: expected {expected}; found {found}")


def _expect_close(found: Tensor, expected: Tensor, where: str) -> None:
    # relative to the vector, not to each number: parameters that hardly move are at the mercy of rounding
    _expect(bool((found - expected).norm() <= 1e-6 * expected.norm() + 1e-12), where, expected, found)


def _expect_equal(found: list[Tensor], expected: list[Tensor], where: str) -> None:
    _expect(all(map(torch.equal, found, expected)), where, expected, found)
