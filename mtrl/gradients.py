"""Per-task gradients and ``backward``, which takes the place of ``losses.mean().backward()``.

Two routes to the gradients of T losses, for the same answer:

- *blocks* (``tape=``): one backward pass; needs rows in task blocks and layers that ``mtrl.record`` knows;
- *losses* (``parameters=``): T backward passes; works for any model.

    with mtrl.record(network, num_tasks) as tape:
        losses = ...                                # (T,), loss t from block t of the rows
    mtrl.backward(losses, aggregator, tape=tape)    # writes .grad
    optimizer.step()
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtrl import diagnostics as measure
from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator, gramian_of
from mtrl.precision import float32_products
from mtrl.tape import Tape


class _Rows(NamedTuple):
    """The Jacobian in pieces, one (T, *shape) per parameter, never put together unless a method needs it."""

    pieces: list[Tensor]
    scale: float  # the true rows are this many times the pieces: kept apart, so that no large tensor is rescaled

    def gramian(self) -> Float[Tensor, "tasks tasks"]:
        return torch.stack([gramian_of(flat) for flat in self.flat()]).sum(0) * self.scale**2

    @float32_products(tf32=False)
    def combine(self, weights: Float[Tensor, " tasks"]) -> list[Tensor]:
        """Update w @ J, piece by piece."""
        weights = weights * self.scale
        return self.shaped([weights.to(flat.dtype) @ flat for flat in self.flat()])

    def jacobian(self) -> Float[Tensor, "tasks params"]:
        return torch.cat(self.flat(), dim=1) * self.scale

    def flat(self) -> list[Tensor]:
        return [piece.reshape(len(piece), -1) for piece in self.pieces]

    def shaped(self, updates: Iterable[Tensor]) -> list[Tensor]:
        """Flat updates in the shapes of the parameters."""
        return [update.view(piece.shape[1:]) for update, piece in zip(updates, self.pieces, strict=True)]


def backward(
    losses: Float[Tensor, " tasks"],
    aggregator: Aggregator,
    *,
    tape: Tape | None = None,
    parameters: Iterable[nn.Parameter] | None = None,
    task_parameters: Iterable[nn.Parameter] = (),
    accumulate: bool = False,
    diagnostics: bool = False,
) -> dict[str, Tensor] | None:
    """Write the aggregated update into ``.grad`` of the shared parameters, and the plain one into that of the heads.

    ``.grad`` is set unless ``accumulate``; parameters that are not named (other networks in the graph) are not touched.
    Task parameters get, bit for bit, what ``losses.mean().backward()`` gives them (``.sum()`` if the aggregator sums).

    :param losses: one loss per task, (T,).
    :param tape: of ``mtrl.record``; its shared parameters and its task parameters are updated. One backward pass.
    :param parameters: the shared parameters, instead of a tape. T backward passes.
    :param task_parameters: parameters that do not enter surgery, besides those that the tape was told of.
    :param accumulate: add to ``.grad``, for a batch in several parts: each part has a surgery of its own.
    :param diagnostics: measure conflict and what surgery did, see ``mtrl.diagnostics``. Dear for a loss method.
    :returns: None, or detached tensors: cosines (T, T), conflict_share (), magnitude_similarity (T, T), norms (T,),
        distance () and angle ().
    :raises ValueError: unless there is one loss per task, and either a tape or parameters.
    :raises TypeError: unless losses are one tensor and the aggregator is an instance; for sparse gradients.
    """
    shared, heads = _parameters(tape, parameters, task_parameters)
    _check_losses(losses, tape)
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"expected an instance of mtrl.Aggregator, such as mtrl.PCGrad(); found {aggregator!r}")
    values = losses.detach()
    with torch.autocast(losses.device.type, enabled=False):  # a caller's autocast is for the forward pass alone
        if isinstance(aggregator, LossAggregator):
            weights = aggregator.weights(values)
            rows = _task_rows(losses, aggregator, tape, shared, (), keep_graph=True)[0] if diagnostics else None
            updates, head_updates = _weighted_backward(losses, weights, aggregator, shared, heads)
            report = _report(rows.gramian(), weights.double(), aggregator, len(losses)) if rows else None
        else:
            rows, head_updates = _task_rows(losses, aggregator, tape, shared, heads)
            updates, report = _aggregate(rows, values, aggregator, diagnostics)
    # None for a parameter that no loss depends on, as after an ordinary backward
    for parameter, update in zip([*shared, *heads], [*updates, *head_updates], strict=True):
        parameter.grad = _sum(parameter.grad, update) if accumulate else update
    return report


def _sum(before: Tensor | None, update: Tensor | None) -> Tensor | None:
    return update if before is None else before if update is None else before + update


def per_task_gradients(
    losses: Float[Tensor, " tasks"], parameters: Iterable[nn.Parameter]
) -> Float[Tensor, "tasks params"]:
    """Jacobian of the losses by T backward passes: any model, and the oracle for the faster route. Keeps the graph."""
    return _Rows(_one_by_one(losses, list(parameters)), 1.0).jacobian()


def _task_rows(
    losses: Tensor,
    aggregator: Aggregator,
    tape: Tape | None,
    shared: list[nn.Parameter],
    heads: Sequence[nn.Parameter],
    keep_graph: bool = False,
) -> tuple[_Rows, Sequence[Tensor | None]]:
    """Rows of the Jacobian over the shared parameters, and the ordinary gradients of the heads."""
    plain = aggregator.reduce(losses)
    if tape is None:
        rows = _Rows(_one_by_one(losses, shared), 1.0)
        return rows, _grad(plain, heads, keep_graph)
    # The layers' weights are not asked for: autograd computes no weight gradient, the tape computes one per task.
    outputs = tape.outputs
    gradients = _grad(plain, [*outputs, *heads], keep_graph)
    pieces = tape.task_gradients(gradients[: len(outputs)])
    return _Rows(pieces, len(losses) if aggregator.reduction == "mean" else 1.0), gradients[len(outputs) :]


def _one_by_one(losses: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in losses]
    if any(gradient.is_sparse for gradient in rows[0]):
        raise TypeError("expected dense gradients, found sparse ones; make the layer with sparse=False")
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


def _grad(plain: Tensor, inputs: Sequence[Any], keep_graph: bool = False) -> list[Tensor | None]:
    """Ordinary gradients; inputs are tensors or edges of the graph. None where ``plain`` does not depend on one."""
    if not inputs:
        return []
    return list(torch.autograd.grad(plain, inputs, retain_graph=keep_graph, allow_unused=True))


def _weighted_backward(
    losses: Tensor, weights: Tensor, aggregator: LossAggregator, shared: list[nn.Parameter], heads: list[nn.Parameter]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """One ordinary backward pass; heads need one of their own, as far down as they lie, if the losses are reweighed."""
    alone = bool(heads) and aggregator.reweights
    head_updates = _grad(aggregator.reduce(losses), heads, keep_graph=True) if alone else []
    inputs = shared if alone else [*shared, *heads]
    updates = list(torch.autograd.grad(losses, inputs, weights.to(losses.dtype), allow_unused=True))
    return updates[: len(shared)], head_updates or updates[len(shared) :]


def _aggregate(
    rows: _Rows, losses: Tensor, aggregator: Aggregator, diagnostics: bool
) -> tuple[Sequence[Tensor | None], dict[str, Tensor] | None]:
    num_tasks = len(losses)
    if isinstance(aggregator, GramianAggregator):
        products = rows.gramian()
        weights = aggregator.weights(products, losses).to(products.dtype)
        updates = rows.combine(weights)
    else:
        jacobian = rows.jacobian()
        update = aggregator(jacobian, losses)
        updates = rows.shaped(update.split([flat.shape[1] for flat in rows.flat()]))
        if diagnostics:  # the update need not be a combination of the rows: it joins them as one more
            products = gramian_of(torch.cat([jacobian, update[None]]))
            weights = torch.eye(num_tasks + 1, dtype=products.dtype, device=products.device)[-1]
    return updates, _report(products, weights, aggregator, num_tasks) if diagnostics else None


def _report(products: Tensor, weights: Tensor, aggregator: Aggregator, num_tasks: int) -> dict[str, Tensor]:
    """``products``: the Gramian of the T gradients and, where there is one more row, of the update."""
    gramian = products[:num_tasks, :num_tasks]
    units = torch.eye(num_tasks, len(products), dtype=products.dtype, device=products.device)
    return {
        "cosines": measure.cosine_matrix(gramian),
        "conflict_share": measure.conflict_share(gramian),
        "magnitude_similarity": measure.magnitude_similarity(gramian),
        "norms": measure.gradient_norms(gramian),
        "distance": measure.surgery_distance(products, weights, plain=aggregator.reduce(units)),
        "angle": measure.surgery_angle(products, weights, plain=aggregator.reduce(units)),
    }


def _parameters(
    tape: Tape | None, parameters: Iterable[nn.Parameter] | None, task_parameters: Iterable[nn.Parameter]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Shared and task parameters that are trained, each once and never both."""
    if isinstance(parameters, nn.Module | Tensor):
        raise TypeError(f"expected a list of parameters, found a {type(parameters).__name__}; see .parameters()")
    if (tape is None) == (parameters is None):
        raise ValueError("expected either a tape of mtrl.record or the shared parameters; found both or neither")
    shared = _trained(parameters or ()) if tape is None else tape.parameters
    heads = _trained([*(tape.task_parameters if tape else ()), *task_parameters])
    if not shared:
        raise ValueError("expected at least one shared parameter, found none")
    if set(map(id, shared)) & set(map(id, heads)):
        raise ValueError("a parameter is either shared or a task parameter; found one that is named as both")
    return shared, heads


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in dict.fromkeys(parameters) if parameter.requires_grad]


def _check_losses(losses: Any, tape: Tape | None) -> None:
    if not isinstance(losses, Tensor):
        raise TypeError(f"expected one tensor of losses (tasks,), found a {type(losses).__name__}; see torch.stack")
    if losses.ndim != 1 or not len(losses) or (tape is not None and len(losses) != tape.num_tasks):
        expected = f"({tape.num_tasks},), as recorded" if tape else "(tasks,)"
        raise ValueError(f"expected one loss per task, {expected}; found shape {tuple(losses.shape)}")
    if not losses.requires_grad:
        raise ValueError("expected losses that depend on parameters, found constants; compute them outside of no_grad")
