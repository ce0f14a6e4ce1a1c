"""A replay buffer shared by all tasks and sampled in equal parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from agents.collecting.episodes import Episodes
from agents.device.transfer import HostBlock
from agents.fields import check_fields, settings_of
from agents.saving.state_file import StateFileError
from agents.settings import SACSettings


class TaskReplayBuffer(BaseBuffer):
    """The last `buffer_size` transitions of each of T tasks; a sample is T blocks of B rows, block t from task t.

    A transition is one row [observation, action, reward, end, next observation], so a sample is a single gather. The
    task's one-hot (the last T columns of an observation) is known from the column and not stored. `end` is 1 where the
    episode terminated and -1 where it was cut off by a time limit, through which the target bootstraps.

    With `n_steps` above 1 a sample's reward is the discounted sum of up to so many, its next observation that after the
    last of them; the sum ends where the episode or the buffer ends.

    How many times are filled, and which is the next, stand in tensors on the device, too, and `sample` looks at those:
    a sample in a captured graph follows the buffer as it grows.

    With `high_reward_fraction` s, the last round(s B) of a task's B rows are drawn for their reward: each is the one
    with the highest stored reward (its own, before n-step sums) of `high_reward_candidates` K uniform draws. A fraction
    of each batch for rewarding transitions is Narasimhan et al. 2015, arXiv 1506.08941 (rho, also 0.25), there by a
    threshold; the best of K is tournament selection (Goldberg and Deb 1991), which needs none. It changes which states
    are learned from, not what is learned there, and no importance weights undo it.

    With `episode_batches` each task's B rows come from one episode, another at each sample: where every episode has a
    goal of its own, they are of one goal. Each stored transition comes as often as without.

    With E environments per task a vector step is E times, one after the other: time i is of environment i mod E (but
    for what was loaded from a buffer with another E).

    :param buffer_size: transitions kept per task, rounded up to a multiple of E.
    :param n_envs: E T, the number of columns: column c of the environment is of task c mod T.
    :param num_tasks: T; None: every column is a task of its own.
    :param n_steps: rewards in a sample's return, discounted by `gamma`.
    :param high_reward_fraction: s, share of a task's rows in a sample that are drawn for their reward, 0 to 1.
    :param high_reward_candidates: K, of how many uniform draws each of them is the best, 1 to 1024.
    :param episode_batches: draw all rows of a task from one episode.
    :param seed: seed of the buffer's own generator; its state is part of `state_dict`.
    :param dtype: of the stored rows; float64 is for tests.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        num_tasks: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        high_reward_fraction: float = 0.0,
        high_reward_candidates: int = 64,
        episode_batches: bool = False,
    ):
        check_fields(SACSettings, {n: v for n, v in locals().items() if n in settings_of(SACSettings)})
        self.num_tasks = num_tasks or n_envs
        self.envs_per_task = n_envs // self.num_tasks
        buffer_size += -buffer_size % self.envs_per_task
        super().__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if optimize_memory_usage:
            raise ValueError("TaskReplayBuffer has no optimize_memory_usage: leave it False.")
        self.obs_dim = self.obs_shape[0] - self.num_tasks
        self.widths = [self.obs_dim, self.action_dim, 1, 1, self.obs_dim]
        # empty, not zeros: memory is taken as it fills
        self.rows = torch.empty(buffer_size, self.num_tasks, sum(self.widths), dtype=dtype, device=self.device)
        self._new = HostBlock(self.rows[: self.envs_per_task])
        # once more, side by side: looking up K of them in the rows would cost as much as reading the sample
        self._rewards = torch.empty(
            buffer_size if high_reward_fraction else 0, self.num_tasks, dtype=dtype, device=self.device
        )
        self.episodes = Episodes(self._ends(), self.envs_per_task) if episode_batches else None
        self.one_hot = torch.eye(self.num_tasks, dtype=dtype, device=self.device)
        self.n_steps, self.gamma = n_steps, gamma
        self.high_reward_fraction, self.high_reward_candidates = high_reward_fraction, high_reward_candidates
        self.filled = torch.zeros((), dtype=torch.float64, device=self.device)  # size(), for the device
        self.head = torch.zeros((), dtype=torch.int64, device=self.device)  # pos, for the device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    @staticmethod
    def bytes_needed(buffer_size: int, num_tasks: int, obs_dim: int, action_dim: int) -> int:
        """Memory of a full buffer; `obs_dim` counts without the one-hot."""
        return 4 * buffer_size * num_tasks * (2 * obs_dim + action_dim + 2)

    def nbytes(self, transitions: int) -> int:
        """Memory of so many transitions of each task, or of all that there is room for."""
        return self.rows.nbytes * min(transitions, self.buffer_size) // self.buffer_size

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one vector step: arrays of E T rows, observations with their one-hot columns.

        `next_obs` holds the true final observation of an episode that ended, not the first of the next.
        """
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        columns = [
            obs[:, : self.obs_dim],
            action.reshape(self.n_envs, -1),
            reward.reshape(-1, 1),
            np.where(done & truncated, -1, done).reshape(-1, 1),
            next_obs[:, : self.obs_dim],
        ]
        parts = [torch.as_tensor(column).to(self.rows.dtype) for column in columns]
        torch.cat(parts, dim=1, out=self._new.writable().flatten(0, 1))
        new = slice(self.pos, self.pos + self.envs_per_task)
        self._new.send(self.rows[new])
        self._look_up_rewards(new)
        if self.episodes is not None:
            self.episodes.add(self.pos, first=not self.size())
        self.pos += self.envs_per_task
        if not self.full:
            self.filled.fill_(self.pos)
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0
        self.head.fill_(self.pos)

    def _look_up_rewards(self, times: slice) -> None:
        if self.high_reward_fraction:
            self._rewards[times] = self.rows[times, :, self.obs_dim + self.action_dim]

    def cut(self) -> None:
        """Let no sum of rewards go on from the newest rows: what is stored next belongs to other episodes."""
        if self.size():
            first = (self.pos - self.envs_per_task) % self.buffer_size
            self._cut(slice(first, first + self.envs_per_task))

    def _cut(self, times: slice) -> None:
        end = self._ends()[times]
        end.masked_fill_(end == 0, -1)

    def _ends(self) -> Float[Tensor, "times tasks"]:
        return self.rows[..., self.obs_dim + self.action_dim + 1]

    def rewards(self) -> Float[Tensor, "times tasks"]:
        """All stored rewards."""
        return self.rows[: self.size(), :, self.obs_dim + self.action_dim]

    def first_not_finite(self) -> tuple[int, str] | None:
        """Find the oldest number that is not finite, if an environment gave it: task, and "observation" or "reward".

        None without one, or if an action that was not finite came first.
        """
        oldest = self.pos if self.full else 0
        sums = self.rows[: self.size()].sum(-1).roll(-oldest, 0)  # a sum of large numbers may overflow, too
        for since, task in (~sums.isfinite()).nonzero()[:1000].tolist():
            row = self.rows[(since + oldest) % self.size(), task]
            observation, action, reward, _, after = (bool(part.isfinite().all()) for part in row.split(self.widths))
            if observation and not action:
                return None
            if not (observation and reward and after):
                return task, "reward" if observation and after else "observation"
        return None

    def reset(self) -> None:
        """Forget all transitions; the generator goes on."""
        super().reset()
        self.filled.zero_()
        self.head.zero_()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """T blocks of `batch_size` rows; each task draws its own times, uniformly with replacement.

        A time is floor(u n), u uniform on the 2^53 multiples of 2^-53 in [0, 1): no time's probability is off by more
        than 2^-52, and u n never rounds up to n.

        :return: observations (T B, D) with one-hots, actions (T B, A), next observations, dones and rewards (T B, 1);
            with n steps also discounts (T B, 1) of the value at the next observations.
        """
        if self.episodes is not None:
            anchors, uniform = self._draw(1), self._uniform(batch_size)
            return self._at(self.episodes.draw(anchors, uniform, self.filled.long(), self.head))
        chosen = round(self.high_reward_fraction * batch_size)
        times = self._draw(batch_size - chosen)
        if chosen:
            times = torch.cat([times, self._draw_high_rewards(chosen)], 1)
        return self._at(times)

    def _draw(self, *shape: int) -> Int[Tensor, "tasks ..."]:
        return (self._uniform(*shape) * self.filled).long()

    def _uniform(self, *shape: int) -> Float[Tensor, "tasks ..."]:
        return torch.rand(
            (self.num_tasks, *shape), generator=self.generator, dtype=torch.float64, device=self.rows.device
        )

    def _draw_high_rewards(self, count: int) -> Int[Tensor, "tasks count"]:
        """Each the best of K uniform draws by stored reward; among equal ones the first drawn, so a uniform one."""
        candidates = self._draw(count, self.high_reward_candidates)
        task = torch.arange(self.num_tasks, device=candidates.device).view(-1, 1, 1)
        rewards = self._rewards.take(candidates * self.num_tasks + task)
        return candidates.gather(-1, rewards.argmax(-1, keepdim=True)).squeeze(-1)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """All tasks' transitions at the given times, in task blocks."""
        return self._at(torch.as_tensor(batch_inds, device=self.rows.device).expand(self.num_tasks, -1))

    def _at(self, times: Int[Tensor, "tasks rows"]) -> ReplayBufferSamples:
        obs, action, reward, end, next_obs = self._gather(times).split(self.widths, dim=1)
        discounts = None
        if self.n_steps > 1:
            reward, discounts, last = self._returns(times)
            *_, end, next_obs = self._gather(last).split(self.widths, dim=1)
        task = self.one_hot.unsqueeze(1).expand(-1, times.shape[1], -1).flatten(0, 1)
        observations, next_observations = torch.cat([obs, task], 1), torch.cat([next_obs, task], 1)
        return ReplayBufferSamples(observations, action, next_observations, end.clamp(min=0), reward, discounts)

    def _gather(self, times: Int[Tensor, "tasks rows"]) -> Float[Tensor, "all columns"]:
        flat = times * self.num_tasks + torch.arange(self.num_tasks, device=times.device).unsqueeze(1)
        return self.rows.flatten(0, 1).index_select(0, flat.flatten())

    def _returns(self, times: Int[Tensor, "tasks rows"]) -> tuple[Tensor, Tensor, Tensor]:
        """n-step rewards, discounts of the value after them, both (T B, 1), and the times of their last rows (T, B)."""
        steps = torch.arange(self.n_steps, device=times.device)
        ahead = (times.unsqueeze(-1) + steps * self.envs_per_task) % self.buffer_size
        columns = slice(self.obs_dim + self.action_dim, self.obs_dim + self.action_dim + 2)
        task = torch.arange(self.num_tasks, device=times.device).view(-1, 1, 1)
        reward, end = self.rows[ahead, task, columns].unbind(-1)  # (T, B, n)
        newer = ((self.head - 1 - times) % self.filled.long()) // self.envs_per_task  # steps after this one
        goes_on = (end == 0) & (steps < newer.unsqueeze(-1))
        counts = torch.cat([torch.ones_like(goes_on[..., :1]), goes_on[..., :-1]], -1).cumprod(-1)
        powers = self.gamma ** steps.to(reward.dtype)
        length = counts.sum(-1)
        last = ahead.gather(-1, length.unsqueeze(-1) - 1).squeeze(-1)
        discounts = self.gamma ** length.to(reward.dtype)
        counted = torch.where(counts.bool(), reward, 0)  # where: memory that was never written may hold NaN
        return (counted * powers).sum(-1).view(-1, 1), discounts.view(-1, 1), last

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part, the position and the generator: everything that the next sample depends on."""
        return {
            "rows": self.rows[: self.size()],
            "pos": self.pos,
            "buffer_size": self.buffer_size,
            "full": self.full,
            "envs_per_task": self.envs_per_task,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Into a buffer of another size, or where the position is no multiple of E, go the newest transitions that fit. On
        another kind of device the sampling sequence begins anew: generators do not translate.

        :raises StateFileError: if the rows are of other tasks or columns.
        """
        rows = state["rows"]
        if rows.shape[1:] != self.rows.shape[1:]:
            raise StateFileError(
                f"The saved buffer has rows of (tasks, columns) {tuple(rows.shape[1:])}; this agent's are "
                f"{tuple(self.rows.shape[1:])}. Load it into an agent with the same tasks."
            )
        if state["buffer_size"] == self.buffer_size and state["pos"] % self.envs_per_task == 0:
            self.pos, self.full = state["pos"], state["full"]
        else:
            oldest_first = rows.roll(-state["pos"], 0) if state["full"] else rows
            rows = oldest_first[-self.buffer_size :]
            rows = rows[len(rows) % self.envs_per_task :]
            self.pos, self.full = len(rows) % self.buffer_size, len(rows) == self.buffer_size
        self.rows[: len(rows)] = rows.to(self.rows)
        self._look_up_rewards(slice(len(rows)))
        if state["envs_per_task"] != self.envs_per_task:  # E rows on is another environment: no sum may go on there
            self._cut(slice(len(rows)))
        if self.episodes is not None:
            self.episodes.load(len(rows), self.pos if self.full else 0)
        self.filled.fill_(self.size())
        self.head.fill_(self.pos)
        if state["generator"].shape == self.generator.get_state().shape:
            self.generator.set_state(state["generator"].cpu())
