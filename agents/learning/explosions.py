"""What is done about tasks whose loss explodes (Sun et al. 2022, arXiv 2210.11653, Section 3.3: stable training).

In such an update they have no gradient, and what the networks have of them alone begins anew from the other tasks'.
Both follow from the critics' loss, on the device. A loss that is infinite or no number still ends the training, as its
gradient times 0 is no number, either.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.networks.actor_critic import MultiTaskNetwork


def exploded(losses: Float[Tensor, " tasks"], limit: float) -> Bool[Tensor, " tasks"]:
    """Whether a task's loss is beyond the limit, or not a number."""
    return ~(losses.detach() <= limit)


def kept(losses: Float[Tensor, " tasks"], limit: float) -> Float[Tensor, " tasks"] | float:
    """Return weights of the tasks' losses: 0 for those beyond the limit, else 1; without a limit (0) a single 1."""
    return (~exploded(losses, limit)).to(losses.dtype) if limit else 1.0


@torch.no_grad()
def set_back(networks: Iterable[MultiTaskNetwork], losses: Float[Tensor, " tasks"], limit: float) -> None:
    """Let tasks whose losses are beyond the limit begin anew, in all networks from the same mean of the other tasks.

    As in the authors' code shares in it are uniform numbers over their sum. Where all are beyond it, none is set back.
    """
    if not limit:
        return
    tasks = exploded(losses, limit)
    shares = torch.rand(len(tasks), len(tasks), device=losses.device) * ~tasks
    for network in networks:
        if network.sets_back:
            network.torso.set_back(tasks & ~tasks.all(), shares / shares.sum(-1, keepdim=True))
