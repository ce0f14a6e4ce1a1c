"""Aligned-MTL: make the system of task gradients as well conditioned as a matrix can be."""

from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.base import GramianAggregator, Reduction
from mtrl.aggregators.shared import on_scale
from mtrl.solvers import eigh

Scale = Literal["min", "median", "rmse"]


class AlignedMTL(GramianAggregator):
    """Replace the gradients by the nearest ones that are orthogonal and equally long, then take the mean.

    Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning" (arXiv 2305.19000), Algorithm 1,
    with equal preferences: weights sigma V diag(lambda)^(-1/2) V' 1/T with the eigenvalues lambda > 0 of G.
    Eigenvalues below T times the rounding of float32 (1.2e-7) of the largest are dropped, as in the authors' code, also
    of gradients in float64: of a smaller one nobody can tell whether it is more than rounding.

    With "min" no task's gradient grows, and nearly dependent gradients make the update short: two
    tasks in exact conflict are held by what little they do not share.

    Use it when a few directions dominate the gradients of all tasks and training is unstable.

    :param reduction: "sum" is T times as long.
    :param scale: which eigenvalue sigma^2 is: the smallest (the paper's), the median, or their mean ("rmse").
    """

    capturable: ClassVar[bool] = True

    def __init__(self, reduction: Reduction = "mean", scale: Scale = "min") -> None:
        super().__init__(reduction)
        if scale not in get_args(Scale):
            raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}; found {scale!r}")
        self.scale = scale

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Balance transformation times 1/T."""
        largest = gramian.diagonal().amax()
        values, vectors = eigh(gramian / torch.where(largest > 0, largest, 1.0))
        kept = values > values.amax() * len(values) * torch.finfo(torch.float32).eps
        if self.scale == "min":
            sigma2 = torch.where(kept, values, torch.inf).amin()
        elif self.scale == "median":
            sigma2 = torch.where(kept, values, torch.nan).nanmedian()
        else:
            sigma2 = torch.where(kept, values, 0.0).sum() / kept.sum()
        stretch = torch.where(kept, (sigma2 / values).sqrt(), 0.0 * values)
        return on_scale(vectors @ (stretch * vectors.mean(0)), self.reduction)
