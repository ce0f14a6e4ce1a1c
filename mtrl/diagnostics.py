"""How much do the tasks conflict, and what did surgery do about it? Pure functions, most of the Gramian G = J J^T.

Quotients 0/0 are defined, so that a task with a zero gradient never puts a NaN into a log.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def gradient_norms(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, " tasks"]:
    """Length |g_i| of each task's gradient."""
    return gramian.diagonal().clamp(min=0).sqrt()


def cosine_matrix(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks tasks"]:
    """Cosine between each pair of task gradients; negative is conflict (Yu et al. 2020, Definition 1).

    A zero gradient has cosine 0 with everything, itself included.
    """
    norms = gradient_norms(gramian)
    return _ratio(gramian, norms[:, None] * norms, 0.0).clamp(-1, 1)


def conflict_share(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, ""]:
    """Share of task pairs whose gradients have a negative product, in [0, 1]; 0 for a single task."""
    num_tasks = len(gramian)
    return (gramian < 0).triu(1).sum().to(gramian.dtype) / max(1, num_tasks * (num_tasks - 1) // 2)


def magnitude_similarity(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks tasks"]:
    """2 |g_i| |g_j| / (|g_i|^2 + |g_j|^2), in [0, 1]: 1 for equal lengths (Yu et al. 2020, Definition 2).

    Two zero gradients are equally long: 1.
    """
    norms = gradient_norms(gramian)
    squares = norms.square()
    return _ratio(2 * norms[:, None] * norms, squares[:, None] + squares, 1.0)


def conflict_degree(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks tasks"]:
    """GCD, 1 - cosine, in [0, 2]: above 1 is conflict (Chai et al. 2024)."""
    return 1 - cosine_matrix(gramian)


def conflict_intensity(
    joint: Float[Tensor, " tasks"], alone: Float[Tensor, " tasks"], more_is_better: bool = False
) -> Float[Tensor, " tasks"]:
    """TCI of each task: what joint training gained over training it alone; negative where it hurts (Chai et al. 2024).

    :param joint: a task's expected risk (test loss, error) trained with the others.
    :param alone: the same, trained by itself.
    :param more_is_better: the numbers are success rates or returns, not risks.
    """
    return joint - alone if more_is_better else alone - joint


def curvature(
    loss: Callable[[Float[Tensor, " params"]], Float[Tensor, ""]],
    start: Float[Tensor, " params"],
    end: Float[Tensor, " params"],
    points: int = 8,
) -> Float[Tensor, ""]:
    """Multi-task curvature of the summed loss: g' (average Hessian from start to end) g, with g its gradient at start.

    Yu et al. 2020, Definition 3, by one Hessian-vector product at each of the points of a Gauss-Legendre rule: exact
    where the curvature along the path is a polynomial of degree below 2 `points`, as on a quadratic. Not what the
    paper's experiments show: that is `taylor_curvature`, another number.

    :param loss: of all parameters as one vector, twice differentiable.
    :raises ValueError: for fewer than one point.
    """
    if points < 1:
        raise ValueError(f"points must be at least 1; found {points}")
    slope = torch.func.grad(loss)
    gradient = slope(start)
    nodes, weights = _gauss_legendre(points, start)
    bends = [torch.func.jvp(slope, (torch.lerp(start, end, node),), (gradient,))[1] @ gradient for node in nodes]
    return weights @ torch.stack(bends)


def taylor_curvature(
    before: Float[Tensor, ""],
    after: Float[Tensor, ""],
    gradient: Float[Tensor, " params"],
    step: Float[Tensor, " params"],
) -> Float[Tensor, ""]:
    """2 (L(after) - L(before) - g . step), which Section 5.3 of Yu et al. 2020 measures in place of the curvature.

    It is step' (average Hessian, weighted 2 (1 - a) along the path) step: curvature along the step, not along the
    gradient. On a quadratic with step = -rate g it is rate^2 times `curvature`; with Adam the two are unrelated.
    """
    return 2 * (after - before - gradient @ step)


def xi(gramian: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks tasks"]:
    """(1 - cos^2) |g_i - g_j|^2 / |g_i + g_j|^2 of each pair (Yu et al. 2020, Theorem 2); 0/0 is 0."""
    squares = gramian.diagonal()
    total = squares[:, None] + squares
    sines2 = 1 - cosine_matrix(gramian).square()
    return _ratio(sines2 * (total - 2 * gramian).clamp(min=0), (total + 2 * gramian).clamp(min=0), 0.0)


class Theorem2(NamedTuple):
    """How often the conditions of Yu et al. 2020, Theorem 2, held, over a series of measurements of two tasks."""

    conflicting: Float[Tensor, ""]
    """Share of the series with a negative cosine."""
    opposed: Float[Tensor, ""]
    """Of these, the share with (a): cosine <= -(magnitude similarity)."""
    bounded: Float[Tensor, ""]
    """Of these, the share with xi <= 1: what Section 5.3 measures of (b), curvature >= xi L, for L is unknown."""


def theorem_2(gramians: Float[Tensor, "steps 2 2"]) -> Theorem2:
    """Shares over a series of Gramians of two tasks; of no conflicting ones, 0."""
    rows = [
        torch.stack([cosine_matrix(g)[0, 1], magnitude_similarity(g)[0, 1], xi(g)[0, 1]]) for g in gramians.unbind()
    ]
    cosines, similarities, xis = torch.stack(rows).unbind(1)
    conflicting = cosines < 0
    opposed, bounded = conflicting & (cosines <= -similarities), conflicting & (xis <= 1)
    count = conflicting.sum().clamp(min=1).to(gramians.dtype)
    return Theorem2(conflicting.to(gramians.dtype).mean(), opposed.sum() / count, bounded.sum() / count)


def surgery_distance(
    gramian: Float[Tensor, "tasks tasks"],
    weights: Float[Tensor, " tasks"],
    plain: Float[Tensor, " tasks"] | None = None,
) -> Float[Tensor, ""]:
    """How far the update moved: |d - m| / |m| with d = weights @ J and m = plain @ J; 0/0 is 0.

    :param plain: weights of the update without surgery; by default the mean's, 1/T each.
    """
    plain = _mean_weights(gramian) if plain is None else plain
    moved = weights - plain
    return _ratio(_product(gramian, moved, moved).sqrt(), _product(gramian, plain, plain).sqrt(), 0.0)


def surgery_angle(
    gramian: Float[Tensor, "tasks tasks"],
    weights: Float[Tensor, " tasks"],
    plain: Float[Tensor, " tasks"] | None = None,
) -> Float[Tensor, ""]:
    """Angle in radians between the update `weights @ J` and the plain one; 0 if either is zero.

    :param plain: as for `surgery_distance`.
    """
    plain = _mean_weights(gramian) if plain is None else plain
    lengths = (_product(gramian, weights, weights) * _product(gramian, plain, plain)).sqrt()
    return _ratio(weights @ gramian @ plain, lengths, 1.0).clamp(-1, 1).arccos()


def _gauss_legendre(points: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights of sum 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)  # in [-1, 1], of sum 2
    return torch.as_tensor((nodes + 1) / 2).to(like), torch.as_tensor(weights / 2).to(like)


def _mean_weights(gramian: Tensor) -> Tensor:
    return gramian.new_full((len(gramian),), 1 / len(gramian))


def _product(gramian: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Squared length of a combination of the gradients; rounding must not make it negative."""
    return (left @ gramian @ right).clamp(min=0)


def _ratio(numerator: Tensor, denominator: Tensor, zero_by_zero: float) -> Tensor:
    undefined = (numerator == 0) & (denominator == 0)
    return torch.where(undefined, zero_by_zero, numerator / denominator)
