"""Which stored transitions are of one episode, and draws of whole batches from one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Episodes:
    """How many steps each stored transition is into its episode: its age, which tells where an episode begins and ends.

    Time i is of environment i mod E, and times wrap at the buffer's size, as in `agents.TaskReplayBuffer`.

    :param ends: the buffer's column (times, tasks) that is not 0 where an episode ended.
    :param envs_per_task: E.
    """

    def __init__(self, ends: Float[Tensor, "times tasks"], envs_per_task: int):
        self._ends, self._envs_per_task = ends, envs_per_task
        self._ages = torch.zeros(ends.shape, dtype=torch.int64, device=ends.device)
        self._task = torch.arange(ends.shape[1], device=ends.device).unsqueeze(1)

    def add(self, time: int, first: bool) -> None:
        """Take in a vector step that was stored at `time` to `time` + E - 1.

        :param first: nothing was stored before it.
        """
        before = (time - self._envs_per_task) % len(self._ends)
        last, new = (slice(start, start + self._envs_per_task) for start in (before, time))
        goes_on = (self._ends[last] == 0) & (not first)
        self._ages[new] = (self._ages[last] + 1) * goes_on

    def load(self, stored: int, oldest: int) -> None:
        """Take in all that is stored: so many times, the oldest of them at `oldest`."""
        ends = self._ends[:stored].roll(-oldest, 0).unflatten(0, (-1, self._envs_per_task))
        steps = torch.arange(len(ends), device=ends.device).view(-1, 1, 1)
        begins = torch.ones_like(ends, dtype=torch.bool)
        begins[1:] = ends[:-1] != 0
        ages = steps - (steps * begins).cummax(0).values
        self._ages[:stored] = ages.flatten(0, 1).roll(oldest, 0)

    def draw(
        self,
        anchors: Int[Tensor, "tasks 1"],
        uniform: Float[Tensor, "tasks rows"],
        stored: Int[Tensor, ""],
        head: Int[Tensor, ""],
    ) -> Int[Tensor, "tasks rows"]:
        """Draw times of the episode that each task's anchor is of, as far as it is stored.

        Of uniform anchors an episode comes as often as it has stored transitions, and so each transition as often as in
        uniform draws.

        :param uniform: numbers in [0, 1), one for each row.
        :param stored: how many times are.
        :param head: the time that is written next.
        """
        older = (anchors - head) % stored // self._envs_per_task  # steps of the same environment before, and after
        newer = (head - 1 - anchors) % stored // self._envs_per_task
        age = self._age_at(anchors)
        before = torch.minimum(older, age)
        # k steps on it is the same episode if the age has grown by k; never again later, so the last is found by halves
        after = torch.zeros_like(anchors)
        for bit in reversed(range((len(self._ends) // self._envs_per_task).bit_length())):
            further = after + 2**bit
            same = self._age_at((anchors + further * self._envs_per_task) % len(self._ends)) == age + further
            after = torch.where(same & (further <= newer), further, after)
        steps = (uniform * (before + after + 1)).long() - before
        return (anchors + steps * self._envs_per_task) % len(self._ends)

    def _age_at(self, times: Int[Tensor, "tasks 1"]) -> Int[Tensor, "tasks 1"]:
        return self._ages.take(times * len(self._task) + self._task)
