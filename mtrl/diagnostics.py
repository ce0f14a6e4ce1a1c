"""How much do the tasks conflict, and what did surgery do about it? Pure functions of the Gramian G = J J^T.

Quotients 0/0 are defined, so that a task with a zero gradient never puts a NaN into a log.
"""

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
    """Angle in radians between the update ``weights @ J`` and the plain one; 0 if either is zero.

    :param plain: as for ``surgery_distance``.
    """
    plain = _mean_weights(gramian) if plain is None else plain
    lengths = (_product(gramian, weights, weights) * _product(gramian, plain, plain)).sqrt()
    return _ratio(weights @ gramian @ plain, lengths, 1.0).clamp(-1, 1).arccos()


def _mean_weights(gramian: Tensor) -> Tensor:
    return gramian.new_full((len(gramian),), 1 / len(gramian))


def _product(gramian: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Squared length of a combination of the gradients; rounding must not make it negative."""
    return (left @ gramian @ right).clamp(min=0)


def _ratio(numerator: Tensor, denominator: Tensor, zero_by_zero: float) -> Tensor:
    undefined = (numerator == 0) & (denominator == 0)
    return torch.where(undefined, zero_by_zero, numerator / denominator)
