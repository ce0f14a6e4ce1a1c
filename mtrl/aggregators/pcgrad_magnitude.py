"""PCGrad's length alone, to tell whether it helps where the step goes, or how far."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.aggregators.pcgrad import PCGrad
from mtrl.aggregators.shared import length, with_length


class PCGradMagnitude(PCGrad):
    """Take the direction of the mean and the length of PCGrad.

    One of the two ablations of Yu et al. 2020 (arXiv 2001.06782). Where the mean vanishes, so does the update.

    Use it when PCGrad helped, to find out whether the length of its steps did.

    :param reduction: "sum" gives the paper's scale.
    :param seed: seed of the visiting orders, one fresh order per task and call.
    """

    capturable: ClassVar[bool] = True

    def weights(
        self, gramian: Float[Tensor, "tasks tasks"], losses: Float[Tensor, " tasks"]
    ) -> Float[Tensor, " tasks"]:
        """Return the mean's weights, rescaled."""
        plain = self.reduce(torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device))
        return with_length(gramian, plain, length(gramian, super().weights(gramian, losses)))
