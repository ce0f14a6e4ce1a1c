"""Goal-conditioned networks: what is to be done is told by a goal in the observation, and by no task."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from agents.fields import SettingError
from agents.networks.base import Inputs
from agents.networks.conditioning import Conditioning


class Goal(Conditioning):
    """The goal in the place of the one-hot: an encoding of it, which the torso sees in its place and as its last part.

    (Yu et al. 2020, arXiv 2001.06782, Section 5: one policy for all goals.) The encoder is one hidden layer of `UNITS`.
    All parameters are shared, so surgery sees all of them, and blocks of rows are tasks by the goals that they have.

    :param goal_size: numbers of the goal, the last of an observation without its one-hot.
    :param embedding_size: numbers of the encoding.
    :raises SettingError: if an observation has fewer than the goal.
    """

    of_both = True
    UNITS = 64

    def __init__(
        self, plain: int, num_tasks: int, num_members: int | None, goal_size: int = 3, embedding_size: int = 32
    ):
        super().__init__(plain, num_tasks, num_members)
        self.goal_size = require(goal_size, plain)
        layers = self.inputs.linear(goal_size, self.UNITS), nn.ReLU(), self.inputs.linear(self.UNITS, embedding_size)
        self.encoder = nn.Sequential(*layers)
        self.inputs = Inputs(plain - goal_size + embedding_size, num_tasks, num_members)

    def forward(self, observations: Tensor, *others: Tensor) -> Tensor:
        """Each row's encoding comes last."""
        rest, goal = observations[:, : -self.num_tasks].tensor_split([-self.goal_size], 1)
        return self._joined([rest, *others, self.encoder(self._joined([goal]))])


def goal_numbers(networks: Any, numbers: int) -> int:
    """Return how many numbers the goal in an observation of `numbers` has.

    :param networks: `agents.settings.NetworkSettings`.
    :raises SettingError: if an observation has fewer.
    """
    return require(networks.goal_size, numbers)


def require(goal_size: int, numbers: int) -> int:
    """Return `goal_size`, if an observation has so many numbers.

    :raises SettingError: if it has not.
    """
    if goal_size > numbers:
        raise SettingError("goal_size", f"at most {numbers}, the numbers of an observation", goal_size)
    return goal_size
