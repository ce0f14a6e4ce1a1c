"""Per-task gradients and `backward`, which takes the place of `losses.mean().backward()`.

Two routes to the gradients of T losses, for the same answer:

- *blocks* (`tape=`): one backward pass; needs rows in task blocks and layers that `mtrl.record` knows;
- *losses* (`parameters=`): T backward passes; works for any model.

    with mtrl.record(network, num_tasks) as tape:
        losses = ...                                # (T,), loss t from block t of the rows
    mtrl.backward(losses, aggregator, tape=tape)    # writes .grad
    optimizer.step()

With `features=` the gradients that are aggregated are those of a shared representation: another method, and one pass
through what made it.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from mtrl import diagnostics as measure
from mtrl.aggregators.base import Aggregator, GramianAggregator, LossAggregator
from mtrl.features import Features
from mtrl.graph import graph_of
from mtrl.parameters import (
    NO_PARAMETER,
    Parameters,
    check_writable,
    parameters_in,
    trained_and_frozen,
    write_gradients,
)
from mtrl.rows import Rows
from mtrl.tape import Tape


def backward(
    losses: Float[Tensor, " tasks"],
    aggregator: Aggregator,
    *,
    tape: Tape | None = None,
    parameters: Parameters | None = None,
    task_parameters: Parameters = (),
    features: Tensor | Sequence[Tensor] | None = None,
    accumulate: bool = False,
    diagnostics: bool = False,
) -> dict[str, Tensor] | None:
    """Write the aggregated update into `.grad` of the shared parameters, and the plain one into that of the heads.

    `.grad` is set unless `accumulate`, in the parameter's own precision. As after an ordinary backward pass, it is
    None where no task's loss reaches the parameter, so for a frozen one, and the graph is gone. Parameters not named
    (other networks in the graph) are not touched.
    Task parameters get, bit for bit, what `losses.mean().backward()` gives them (`.sum()` if the aggregator sums).

    :param losses: one loss per task, (T,); with an aggregator of two batches (`batches`) two, side by side, (2T,).
    :param tape: of `mtrl.record`; its shared parameters and its task parameters are updated. One backward pass.
    :param parameters: the shared parameters, instead of a tape; with their names, too. T backward passes.
    :param task_parameters: parameters that do not enter surgery, besides those of the tape.
    :param features: the shared representation, one or more tensors of the graph between `parameters` and the losses.
        Aggregated are the tasks' gradients of *these*, and one backward pass takes the result to the parameters (Sener
        and Koltun 2018, Section 3.3; `rep_grad` of LibMTL). Another method than that on the parameters, but for a
        `LossAggregator`, where it is the same.
    :param accumulate: add to `.grad`, for a batch in several parts; surgery is applied to each part separately.
    :param diagnostics: measure conflict and what surgery did, see `mtrl.diagnostics`. Expensive for a
        `LossAggregator`: adds T backward passes.
    :returns: None, or detached tensors: cosines (T, T), conflict_share (), magnitude_similarity (T, T), norms (T,),
        distance () and angle ().
    :raises ValueError: unless there is one loss per task, and either a tape or parameters; for losses that depend on a
        parameter past the tape or the features.
    :raises TypeError: unless losses are one tensor and the aggregator is an instance; for sparse gradients.
    :raises RuntimeError: if the losses depend on none of the shared parameters, or a reentrant checkpoint hides some.
    """
    shared, heads, frozen = _parameters(tape, parameters, task_parameters)
    _check(losses, aggregator, tape)
    between = None if features is None else Features.of(features, losses, shared, tape)
    _warn_of_processes()
    values, asked = losses.detach(), between.tensors if between else shared
    # a caller's autocast is for the forward pass alone, and a caller's no_grad does not stop loss.backward() either
    with torch.autocast(losses.device.type, enabled=False), torch.enable_grad():
        if isinstance(aggregator, LossAggregator):
            weights = aggregator.weights(values).detach()
            rows = _task_rows(losses, aggregator, tape, asked, (), keep_graph=True)[0] if diagnostics else None
            updates, head_updates = _weighted_backward(losses, weights, aggregator, shared, heads)
            _check_reached(updates)
            report = _report(rows.measured()[0], weights.double(), aggregator, len(losses)) if rows else None
        else:
            rows, reached, head_updates = _task_rows(losses, aggregator, tape, asked, heads)
            updates, report = _aggregate(rows, values, aggregator, diagnostics)
            updates = [update if reaches else None for update, reaches in zip(updates, reached, strict=True)]
            if between:
                updates = between.back_to(shared, updates)
    write_gradients([*shared, *heads, *frozen], [*updates, *head_updates, *(len(frozen) * [None])], accumulate)
    return report


def _check(losses: Tensor, aggregator: Aggregator, tape: Tape | None) -> None:
    check_losses(losses, tape)
    if not isinstance(aggregator, Aggregator):
        raise TypeError(
            "expected an instance of mtrl.Aggregator, such as mtrl.PCGrad() or one of "
            f"mtrl.make_aggregator('torchjd:NAME'); found {aggregator!r}"
        )
    if len(losses) % aggregator.batches:
        raise ValueError(
            f"expected {aggregator.batches} losses per task, one of each batch, as the aggregator's batches are "
            f"{aggregator.batches}; found {len(losses)} losses in all"
        )
    if tape is not None:
        tape.check_uses(losses)


def _warn_of_processes() -> None:
    """DistributedDataParallel averages gradients inside `loss.backward()`, and cannot be seen from here."""
    if distributed.is_available() and distributed.is_initialized() and (ranks := distributed.get_world_size()) > 1:
        warnings.warn(
            f"mtrl.backward leaves each of {ranks} processes its own .grad, even with DistributedDataParallel: average "
            "them before the optimizer's step, or the processes drift apart (docs/mtrl.md)",
            RuntimeWarning,
            stacklevel=3,
        )


def per_task_gradients(losses: Float[Tensor, " tasks"], parameters: Parameters) -> Float[Tensor, "tasks params"]:
    """Jacobian of the losses by T backward passes: any model, and the oracle for the faster route. Keeps the graph.

    As in `backward`, its columns are those of the parameters that are trained; frozen ones have none.

    :raises ValueError: for no parameter that is trained.
    :raises RuntimeError: if the losses depend on none of the parameters.
    """
    shared, _ = trained_and_frozen(parameters_in(parameters))
    if not shared:
        raise ValueError(NO_PARAMETER)
    check_losses(losses, None)
    with torch.autocast(losses.device.type, enabled=False), torch.enable_grad():
        return _rows(_one_by_one(losses, shared, keep_graph=True), losses, shared)[0].jacobian()


def _task_rows(
    losses: Tensor,
    aggregator: Aggregator,
    tape: Tape | None,
    shared: Sequence[Tensor],
    heads: Sequence[nn.Parameter],
    keep_graph: bool = False,
) -> tuple[Rows, list[bool], Sequence[Tensor | None]]:
    """Rows of the Jacobian over the shared parameters, which of these a loss reaches, and the heads' own gradients."""
    plain = aggregator.reduce(losses)
    if tape is None:
        # the heads first: what frees the graph is the last pass down to where the activations are, in the shared part
        head_updates = _grad(plain, heads, keep_graph=True)
        return *_rows(_one_by_one(losses, shared, keep_graph), losses, shared), head_updates
    # The layers' weights are not asked for: autograd computes no weight gradient, the tape computes one per task.
    outputs = tape.outputs
    gradients = _grad(plain, [*outputs, *heads], keep_graph)
    pieces = tape.task_gradients(gradients[: len(outputs)])
    scale = len(losses) if aggregator.reduction == "mean" else aggregator.batches
    return *_rows(pieces, losses, shared, scale), gradients[len(outputs) :]


def _rows(
    pieces: Sequence[Tensor | None], losses: Tensor, shared: Sequence[Tensor], scale: float = 1.0
) -> tuple[Rows, list[bool]]:
    """Rows with zeros for a parameter that no loss reaches, so that their length is always the same; and which are not.

    :raises RuntimeError: as `_check_reached`.
    """
    _check_reached(pieces)
    whole = [
        parameter.new_zeros(len(losses), *parameter.shape) if piece is None else piece
        for piece, parameter in zip(pieces, shared, strict=True)
    ]
    return Rows(whole, scale), [piece is not None for piece in pieces]


def _check_reached(gradients: Sequence[Tensor | None]) -> None:
    """Refuse losses that reach none of the shared parameters."""
    if all(gradient is None for gradient in gradients):
        raise RuntimeError(
            "the losses depend on none of the shared parameters; expected those of the network that made the losses. "
            "They may belong to another network or a copy, or the graph was cut: by detach, no_grad, or a reentrant "
            "checkpoint (use_reentrant=False does not)"
        )


def _one_by_one(losses: Tensor, parameters: Sequence[Tensor], keep_graph: bool = False) -> list[Tensor | None]:
    """(T, *shape) for each parameter, with zeros for the tasks that do not reach it; None if no task does."""
    last = len(losses) - 1
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=keep_graph or task < last, allow_unused=True)
        for task, loss in enumerate(losses)
    ]
    return [_stacked(gradients) for gradients in zip(*rows, strict=True)]


def _stacked(gradients: Sequence[Tensor | None]) -> Tensor | None:
    found = [gradient for gradient in gradients if gradient is not None]
    if any(gradient.is_sparse for gradient in found):
        raise TypeError("expected dense gradients, found sparse ones; make the layer with sparse=False")
    if not found:
        return None
    return torch.stack([torch.zeros_like(found[0]) if gradient is None else gradient for gradient in gradients])


def _grad(plain: Tensor, inputs: Sequence[Any], keep_graph: bool = False) -> list[Tensor | None]:
    """Ordinary gradients; inputs are tensors or edges of the graph. None where `plain` does not depend on one."""
    if not inputs:
        return []
    return list(torch.autograd.grad(plain, inputs, retain_graph=keep_graph, allow_unused=True))


def _weighted_backward(
    losses: Tensor, weights: Tensor, aggregator: LossAggregator, shared: list[nn.Parameter], heads: list[nn.Parameter]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """One ordinary backward pass; heads need a separate one, as far down as they lie, if the losses are reweighed."""
    alone = bool(heads) and aggregator.reweights
    head_updates = _grad(aggregator.reduce(losses), heads, keep_graph=True) if alone else []
    inputs = shared if alone else [*shared, *heads]
    updates = list(torch.autograd.grad(losses, inputs, weights.to(losses.dtype), allow_unused=True))
    return updates[: len(shared)], head_updates or updates[len(shared) :]


def _aggregate(
    rows: Rows, losses: Tensor, aggregator: Aggregator, diagnostics: bool
) -> tuple[Sequence[Tensor | None], dict[str, Tensor] | None]:
    num_tasks = len(losses)
    if isinstance(aggregator, GramianAggregator):
        products, rows = rows.measured(aggregator.apart)
        weights = aggregator.checked_weights(products, losses).detach().to(products.dtype)
        updates = rows.combine(weights)
    else:
        jacobian = rows.jacobian()
        update = aggregator(jacobian, losses).detach()
        updates = rows.shaped(update.split([flat.shape[1] for flat in rows.flat()]))
        if diagnostics:  # the update need not be a combination of the rows: it joins them as one more
            products = Rows([torch.cat([jacobian, update[None]])]).measured()[0]
            weights = torch.eye(num_tasks + 1, dtype=products.dtype, device=products.device)[-1]
    return updates, _report(products, weights, aggregator, num_tasks) if diagnostics else None


def _report(products: Tensor, weights: Tensor, aggregator: Aggregator, num_tasks: int) -> dict[str, Tensor]:
    """`products`: the Gramian of the T gradients and, where there is one more row, of the update."""
    units = torch.eye(num_tasks, products.shape[-1], dtype=products.dtype, device=products.device)
    plain = aggregator.reduce(units)
    gramian = products[..., :num_tasks, :num_tasks]
    if products.ndim == 3:  # one for each parameter: the update's products are those of its parts
        gramian, plain = gramian.sum(0), plain.repeat(len(products))
        products, weights = torch.block_diag(*products), weights.flatten()
    if (batches := aggregator.batches) > 1:  # a task's gradient is the mean of those of its batches
        gramian = gramian.unflatten(1, (-1, batches)).mean(2).unflatten(0, (-1, batches)).mean(1)
    return {
        "cosines": measure.cosine_matrix(gramian),
        "conflict_share": measure.conflict_share(gramian),
        "magnitude_similarity": measure.magnitude_similarity(gramian),
        "norms": measure.gradient_norms(gramian),
        "distance": measure.surgery_distance(products, weights, plain),
        "angle": measure.surgery_angle(products, weights, plain),
    }


def _parameters(
    tape: Tape | None, parameters: Parameters | None, task_parameters: Parameters
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Shared and task parameters that are trained, each once and never both, and those of both that are not."""
    if (tape is None) == (parameters is None):
        raise ValueError("expected either a tape of mtrl.record or the shared parameters; found both or neither")
    shared, frozen = (tape.parameters, tape.frozen) if tape else trained_and_frozen(parameters_in(parameters))
    of_tasks = [*(tape.task_parameters if tape else ()), *parameters_in(task_parameters)]
    heads, frozen_heads = trained_and_frozen(of_tasks)
    if not shared:
        raise ValueError(NO_PARAMETER)
    if set(map(id, shared)) & set(map(id, heads)):
        raise ValueError("a parameter is either shared or a task parameter; found one that is named as both")
    check_writable([*shared, *heads])
    return shared, heads, [*frozen, *frozen_heads]


def check_losses(losses: Any, tape: Tape | None) -> None:
    """Refuse anything but one loss per task, with a graph."""
    if not isinstance(losses, Tensor):
        raise TypeError(f"expected one tensor of losses (tasks,), found a {type(losses).__name__}; see torch.stack")
    if losses.ndim != 1 or not len(losses) or (tape is not None and len(losses) != tape.num_tasks):
        expected = f"({tape.num_tasks},), as recorded" if tape else "(tasks,)"
        raise ValueError(f"expected one loss per task, {expected}; found shape {tuple(losses.shape)}")
    if losses.is_complex() or losses.is_meta:
        raise TypeError(f"expected losses of real numbers, found {losses.dtype} on {losses.device}")
    if not losses.requires_grad:
        raise ValueError("expected losses that depend on parameters, found constants; compute them outside of no_grad")
    if torch.is_inference_mode_enabled():
        raise ValueError("expected to be called where gradients can be computed; leave torch.inference_mode before")
    if tape is None and any("CheckpointFunction" in node.name() for node in graph_of(losses)):  # a tape's layers refuse
        raise RuntimeError(
            "the losses go through a reentrant checkpoint, which hides the parameters behind it from all but "
            "loss.backward(); use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )
