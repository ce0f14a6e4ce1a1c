"""Returns of all tasks brought to one size: what each task's rewards are divided by before an update.

Raw rewards stay in the replay buffer; a divisor per task is applied to each batch, so that a better estimate holds for
old transitions, too. Without it the task with the largest rewards has the largest critic loss, and its gradient is
what the others' are added to. Temperatures belong to the divided rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.networks.layers import TaskHeads

TINY = 1e-8


class ReturnScale:
    """Divides by one: rewards as they are. What is measured inherits from it.

    :param num_tasks: T.
    :param columns: of the vector environment, T or a multiple; column c is an environment of task c mod T.
    :param gamma: discount of a step.
    :param v_max: size that BRC's divisor brings the returns to.
    """

    measured: ClassVar[bool] = False  # there is something to log
    refresh_every: ClassVar[int] = 0  # steps per task between two calls of `refresh`; 0: only at start and resets

    def __init__(
        self, num_tasks: int, columns: int, gamma: float, v_max: float, target_entropy: float, device: torch.device
    ):
        self.num_tasks, self.gamma, self.v_max, self.target_entropy = num_tasks, gamma, v_max, target_entropy
        self.columns = columns
        self.scale = torch.ones(num_tasks, device=device)
        self.shift: Tensor | None = None  # of the targets, in units of the scale

    def divisor(self, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """Return what the rewards of each task are divided by, given its temperature."""
        return self.scale

    def observe(self, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
        """See one vector step: raw rewards, ends of episodes and infos, as an environment gives them."""

    def cut(self) -> None:
        """Forget the running episodes: the environments are reset."""

    def refresh(self, rewards: Float[Tensor, "times tasks"]) -> None:
        """Look at all stored rewards."""

    def denormalise(self, target: Float[Tensor, "tasks rows targets"]) -> Float[Tensor, "tasks rows targets"]:
        """Targets in the units of the rewards, from those in the units of now."""
        return target

    def observe_targets(self, returns: Float[Tensor, "tasks rows targets"], *critics: nn.Module) -> None:
        """See an update's targets in the units of the rewards.

        If that changes the units, the critics' heads change with them, so that no value does.
        """

    def normalise(self, returns: Float[Tensor, "tasks rows targets"]) -> Float[Tensor, "tasks rows targets"]:
        """Targets in the units of now, from those in the units of the rewards."""
        return returns

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next divisor depends on."""
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.scale.copy_(state["scale"])


class BRCScale(ReturnScale):
    """The largest return so far: D = (max |G| - alpha H target_entropy / 2) / v_max, with H = 1 / (1 - gamma).

    (BRC, Nauman et al. 2025, arXiv 2505.23150.) G are the discounted returns from every step of every finished
    episode; one cut off by a time limit goes on with its mean reward for ever. Until a task has finished an episode,
    the bound H max |r| stands in for max |G|.
    """

    measured = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.scale.zero_()  # max |G|, of each task
        self._largest = np.zeros(self.num_tasks)  # max |r|
        self._extreme = np.full(self.num_tasks, np.nan)  # max |G| of finished episodes
        self._rewards: list[list[float]] = [[] for _ in range(self.columns)]  # of the episode that is running

    def divisor(self, alpha: Float[Tensor, " tasks"]) -> Float[Tensor, " tasks"]:
        """D of each task."""
        entropy = -0.5 * self.target_entropy / (1 - self.gamma) * alpha
        return ((self.scale.to(alpha.dtype) + entropy) / self.v_max).clamp(min=TINY)

    def observe(self, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
        """Add the step to the running episodes, and measure those that it ended."""
        before = self._bounds()
        self._largest = np.maximum(self._largest, np.abs(rewards).reshape(-1, self.num_tasks).max(0))
        for column, reward in enumerate(rewards.tolist()):
            self._rewards[column].append(reward)
        for column in np.flatnonzero(dones).tolist():
            truncated = bool(infos[column].get("TimeLimit.truncated", False))
            task, found = column % self.num_tasks, largest_return(self._rewards[column], self.gamma, truncated)
            self._extreme[task] = np.fmax(self._extreme[task], found)
            self._rewards[column] = []
        if not np.array_equal(bounds := self._bounds(), before):
            self.scale.copy_(torch.as_tensor(bounds))

    def _bounds(self) -> np.ndarray:
        return np.where(np.isnan(self._extreme), self._largest / (1 - self.gamma), self._extreme)

    def cut(self) -> None:
        """Forget the running episodes."""
        self._rewards = [[] for _ in range(self.columns)]

    def state_dict(self) -> dict[str, Any]:
        """Extremes, and the rewards of the running episodes."""
        rewards = [np.array(episode) for episode in self._rewards]
        return {**super().state_dict(), "largest": self._largest, "extreme": self._extreme, "rewards": rewards}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; running episodes are dropped if the number of columns is another."""
        super().load_state_dict(state)
        self._largest, self._extreme = state["largest"].copy(), state["extreme"].copy()
        if len(state["rewards"]) == self.columns:
            self._rewards = [list(map(float, episode)) for episode in state["rewards"]]


class StdScale(ReturnScale):
    """The standard deviation of the task's rewards in the replay buffer, measured every 1000 steps per task.

    (After Kurin et al. 2022, arXiv 2201.04122, whose code takes all rewards ever stored instead.)
    """

    measured = True
    refresh_every = 1000

    def refresh(self, rewards: Float[Tensor, "times tasks"]) -> None:
        """Measure; a task whose rewards are all equal keeps the divisor that it has."""
        std = rewards.double().std(0, correction=0)
        self.scale.copy_(torch.where(std > TINY, std, self.scale))


class PopArtScale(ReturnScale):
    """Targets of mean 0 and deviation 1 for each task, and heads that are changed so that no value changes.

    (van Hasselt et al. 2016, arXiv 1602.07714; for many tasks Hessel et al. 2018, arXiv 1809.04474.) Mean and second
    moment of the raw targets are running averages with rate `BETA`, free of the bias of their start.
    """

    measured = True
    BETA = 3e-4
    SMALLEST = 1e-4  # deviation

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.shift = torch.zeros_like(self.scale)
        device = self.scale.device
        self._moments = torch.zeros(2, self.num_tasks, dtype=torch.float64, device=device)  # of y and y^2, with bias
        self._weight = torch.zeros((), dtype=torch.float64, device=device)  # what the bias leaves: 1 - (1 - BETA)^n

    def denormalise(self, target: Float[Tensor, "tasks rows targets"]) -> Float[Tensor, "tasks rows targets"]:
        """(target + shift) * scale, in float64."""
        assert self.shift is not None
        by_task = (self.num_tasks, 1, 1)
        return (target.double() + self.shift.view(by_task)) * self.scale.view(by_task)

    @torch.no_grad()
    def observe_targets(self, returns: Float[Tensor, "tasks rows targets"], *critics: nn.Module) -> None:
        """Move the statistics with these targets, and the critics' heads with the statistics."""
        assert self.shift is not None
        by_task = (self.num_tasks, 1, 1)
        self._moments.lerp_(torch.stack([returns, returns.square()]).mean((2, 3)), self.BETA)
        self._weight.lerp_(torch.ones_like(self._weight), self.BETA)
        mean, deviation = self._statistics()
        ratio, offset = self.scale / deviation, (self.shift * self.scale - mean) / deviation
        for critic in critics:
            assert isinstance(critic.head, TaskHeads)
            critic.head.weight.mul_(ratio.view(by_task))
            critic.head.bias.mul_(ratio.view(by_task)).add_(offset.view(by_task))
        self.scale.copy_(deviation)
        self.shift.copy_(mean / deviation)

    def normalise(self, returns: Float[Tensor, "tasks rows targets"]) -> Float[Tensor, "tasks rows targets"]:
        """Return (returns - mean) / deviation, in float64."""
        by_task = (self.num_tasks, 1, 1)
        mean, deviation = self._statistics()
        return (returns - mean.view(by_task)) / deviation.view(by_task)

    def _statistics(self) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Mean and deviation of each task's targets."""
        mean, second = self._moments / self._weight
        return mean, (second - mean.square()).clamp(min=self.SMALLEST**2).sqrt()

    def state_dict(self) -> dict[str, Any]:
        """Statistics of the targets."""
        return {**super().state_dict(), "shift": self.shift, "moments": self._moments, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(state)
        assert self.shift is not None
        for kept, saved in ((self.shift, "shift"), (self._moments, "moments"), (self._weight, "weight")):
            kept.copy_(state[saved])


RETURN_SCALES: dict[str, type[ReturnScale]] = {
    "none": ReturnScale,
    "brc": BRCScale,
    "reward-std": StdScale,
    "popart": PopArtScale,
}


def reward_factors(scale: Sequence[float], num_tasks: int, like: Float[Tensor, ...]) -> Float[Tensor, " tasks"]:
    """Return what rewards are multiplied by: one factor for all tasks, or one per task.

    :param like: rewards, whose type and device the factors have.
    :raises ValueError: for another number of factors.
    """
    if len(scale) not in (1, num_tasks):
        raise ValueError(f"reward_scale takes one number or one per task ({num_tasks}), found {tuple(scale)}.")
    return torch.as_tensor(scale, device=like.device, dtype=like.dtype).expand(num_tasks)


def largest_return(rewards: list[float], gamma: float, truncated: bool) -> float:
    """Return the largest |G_t| of an episode, G_t = r_t + gamma G_{t+1}; past a time limit its mean goes on."""
    value = float(np.mean(rewards)) / (1 - gamma) if truncated else 0.0
    largest = 0.0
    for reward in reversed(rewards):
        value = reward + gamma * value
        largest = max(largest, abs(value))
    return largest
