"""A replay buffer shared by all tasks and sampled in equal parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from agents.transfer import HostBlock


class TaskReplayBuffer(BaseBuffer):
    """The last `buffer_size` transitions of each of T tasks; a sample is T blocks of B rows, block t from task t.

    A transition is one row [observation, action, reward, terminated, next observation], so a sample is a single gather.
    The task's one-hot (the last T columns of an observation) is known from the column and not stored. Truncated
    episodes are stored as not terminated: the target bootstraps through a time limit.

    How many times are filled stands in a tensor on the device, too, and `sample` looks at that one: a sample in a
    captured graph follows the buffer as it grows.

    :param buffer_size: transitions kept per task.
    :param n_envs: T, the number of tasks: column i of the environment is task i.
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
    ):
        super().__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if optimize_memory_usage:
            raise ValueError("TaskReplayBuffer has no optimize_memory_usage: leave it False.")
        self.num_tasks = n_envs
        self.obs_dim = self.obs_shape[0] - n_envs
        self.widths = [self.obs_dim, self.action_dim, 1, 1, self.obs_dim]
        # empty, not zeros: memory is taken as it fills
        self.rows = torch.empty(buffer_size, n_envs, sum(self.widths), dtype=dtype, device=self.device)
        self._row = HostBlock(self.rows[0])
        self.one_hot = torch.eye(n_envs, dtype=dtype, device=self.device)
        self.filled = torch.zeros((), dtype=torch.float64, device=self.device)  # size(), for the device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    @staticmethod
    def bytes_needed(buffer_size: int, num_tasks: int, obs_dim: int, action_dim: int) -> int:
        """Memory of a full buffer; `obs_dim` counts without the one-hot."""
        return 4 * buffer_size * num_tasks * (2 * obs_dim + action_dim + 2)

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one vector step: arrays of T rows, observations with their one-hot columns.

        `next_obs` holds the true final observation of an episode that ended, not the first of the next.
        """
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        columns = [
            obs[:, : self.obs_dim],
            action.reshape(self.num_tasks, -1),
            reward.reshape(-1, 1),
            (done & ~truncated).reshape(-1, 1),
            next_obs[:, : self.obs_dim],
        ]
        parts = [torch.as_tensor(column).to(self.rows.dtype) for column in columns]
        torch.cat(parts, dim=1, out=self._row.writable())
        self._row.send(self.rows[self.pos])
        self.pos += 1
        if not self.full:
            self.filled.fill_(self.pos)
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def reset(self) -> None:
        """Forget all transitions; the generator goes on."""
        super().reset()
        self.filled.zero_()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """T blocks of `batch_size` rows; each task draws its own times, uniformly with replacement.

        A time is floor(u n), u uniform on the 2^53 multiples of 2^-53 in [0, 1): no time's probability is off by more
        than 2^-52, and u n never rounds up to n.

        :return: observations (T B, D) with one-hots, actions (T B, A), next observations, dones and rewards (T B, 1).
        """
        shape, device = (self.num_tasks, batch_size), self.rows.device
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64, device=device)
        times = (uniform * self.filled).long()
        flat = times * self.num_tasks + torch.arange(self.num_tasks, device=times.device).unsqueeze(1)
        return self._samples(self.rows.flatten(0, 1).index_select(0, flat.flatten()))

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """All tasks' transitions at the given times, in task blocks."""
        times = torch.as_tensor(batch_inds, device=self.rows.device)
        return self._samples(self.rows[times].transpose(0, 1).flatten(0, 1))

    def _samples(self, rows: Tensor) -> ReplayBufferSamples:
        obs, action, reward, terminated, next_obs = rows.split(self.widths, dim=1)
        task = self.one_hot.unsqueeze(1).expand(-1, len(rows) // self.num_tasks, -1).flatten(0, 1)
        return ReplayBufferSamples(
            torch.cat([obs, task], 1), action, torch.cat([next_obs, task], 1), terminated, reward
        )

    def state_dict(self) -> dict[str, Any]:
        """The filled part, the position and the generator: everything that the next sample depends on."""
        return {
            "rows": self.rows[: self.size()],
            "pos": self.pos,
            "buffer_size": self.buffer_size,
            "full": self.full,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; into a buffer of another size, the newest transitions that fit.

        On another kind of device the sampling sequence begins anew: generators do not translate.

        :raises ValueError: if the rows are of other tasks or columns.
        """
        rows = state["rows"]
        if rows.shape[1:] != self.rows.shape[1:]:
            raise ValueError(
                f"The saved buffer has rows of (tasks, columns) {tuple(rows.shape[1:])}; this agent's are "
                f"{tuple(self.rows.shape[1:])}. Load it into an agent with the same tasks."
            )
        if state["buffer_size"] == self.buffer_size:
            self.pos, self.full = state["pos"], state["full"]
        else:
            oldest_first = rows.roll(-state["pos"], 0) if state["full"] else rows
            rows = oldest_first[-self.buffer_size :]
            self.pos, self.full = len(rows) % self.buffer_size, len(rows) == self.buffer_size
        self.rows[: len(rows)] = rows.to(self.rows)
        self.filled.fill_(self.size())
        if state["generator"].shape == self.generator.get_state().shape:
            self.generator.set_state(state["generator"].cpu())
