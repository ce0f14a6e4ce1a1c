"""GLS: the geometric mean of the losses."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.shared import on_scale
from mtrl.aggregators.weighting import LEAST, Weighting


class GLS(Weighting):
    """Descend along the geometric mean of the losses: each weighs as much as the inverse of its size.

    Chennupati et al. 2019, "MultiNet++" (CVPR workshops), equation 2. The gradient of (prod_i L_i)^(1/T) is the mean of
    the g_i / L_i times the geometric mean itself; here the weights are scaled to sum 1.

    Use it when losses have different units and one wants nothing to tune.

    Losses must not be negative. One of exactly 0, as that of a task with no rows in the batch, is left out.

    :param reduction: "sum" is T times as long.
    """

    capturable: ClassVar[bool] = True

    def weights(self, losses: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """1 / L_i, scaled to sum 1; 0 for a loss of 0."""
        inverse = torch.where(losses == 0, 0.0, 1 / self.seen(losses))
        return on_scale(inverse / inverse.sum().clamp(min=LEAST), self.reduction)
