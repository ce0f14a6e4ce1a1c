"""PCGrad's direction alone, to tell whether it helps where the step goes, or how far."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.pcgrad import PCGrad
from mtrl.aggregators.shared import length, with_length


class PCGradDirection(PCGrad):
    """Take the direction of PCGrad and the length of the mean.

    One of the two ablations of Yu et al. 2020 (arXiv 2001.06782). The paper does not say what happens where
    PCGrad's update vanishes; here the update is then zero.

    Use it when PCGrad helped, to find out whether its direction did.

    :param reduction: "sum" gives the paper's scale.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """PCGrad's weights, rescaled."""
        plain = self.reduce(torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device))
        return with_length(gramian, super().weights(gramian, losses), length(gramian, plain))
