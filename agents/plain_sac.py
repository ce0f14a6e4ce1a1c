"""Stable-Baselines3's own `SAC`, for one task among several that take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from inspect import signature
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from agents.collecting.replay import TaskReplayBuffer
from agents.fields import taken_by
from agents.learning.guard import NonFiniteError
from agents.saving.agent_file import with_own_options
from agents.saving.state_file import StateFileError
from agents.schedules import learning_schedule
from agents.settings import AgentSettings, NetworkSettings

_ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")  # of a ReplayBuffer


class SizedPolicy(SACPolicy):
    """Stable-Baselines3's policy, with LayerNorm before each ReLU where the settings have it.

    :param norms: widths (actor, critic) of the normalised layers; None for no LayerNorm there.
    """

    def __init__(self, *args: Any, norms: tuple[int | None, int | None] = (None, None), **kwargs: Any) -> None:
        self.norms = norms
        super().__init__(*args, **kwargs)

    def make_actor(self, features_extractor: Any = None) -> Actor:
        """Make the actor. An activation is made without being told its width, so it is one that knows it."""
        if self.norms[0]:
            self.actor_kwargs["activation_fn"] = partial(_norm_relu, self.norms[0])
        return super().make_actor(features_extractor)

    def make_critic(self, features_extractor: Any = None) -> Any:
        """Make the critics, or their targets."""
        if self.norms[1]:
            self.critic_kwargs["activation_fn"] = partial(_norm_relu, self.norms[1])
        return super().make_critic(features_extractor)


def _norm_relu(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.ReLU())


def make_sac(
    settings: AgentSettings,
    networks: NetworkSettings,
    policy_kwargs: Mapping[str, Any],
    observations: spaces.Box,
    actions: spaces.Box,
    device: torch.device | str,
) -> SAC:
    """Make a SAC without an environment; its own buffer, unless that cannot draw rows for their reward.

    :param settings: as for one task: `learning_starts` and `seed` are its own.
    :param policy_kwargs: `optimizer_kwargs` is taken of them.
    """
    own = networks
    policy = {
        "net_arch": {"pi": [own.actor_width] * own.actor_depth, "qf": [own.critic_width] * own.critic_depth},
        "norms": (
            own.actor_width if own.actor_layer_norm else None,
            own.critic_width if own.critic_layer_norm else None,
        ),
        "optimizer_kwargs": policy_kwargs.get("optimizer_kwargs"),
    }
    values = {**vars(settings), "learning_rate": learning_schedule(settings.learning_rate)}
    if settings.target_entropy == "auto":
        values["target_entropy"] = -float(np.prod(actions.shape))  # Stable-Baselines3 would ask the environment
    if settings.high_reward_fraction:
        all_of_it = taken_by(TaskReplayBuffer, vars(settings))
        buffer = {name: value for name, value in all_of_it.items() if name not in signature(ReplayBuffer).parameters}
        # a buffer of one's own sums the rewards itself
        values |= {
            "n_steps": 1,
            "replay_buffer_class": TaskReplayBuffer,
            "replay_buffer_kwargs": {**buffer, "num_tasks": 1},
        }
    kwargs = {"policy_kwargs": policy, "device": device, "_init_setup_model": False, **taken_by(SAC, values)}
    sac = SAC(SizedPolicy, None, **kwargs)  # type: ignore[arg-type]
    sac.observation_space, sac.action_space, sac.n_envs = observations, deepcopy(actions), 1
    sac._setup_model()
    sac.set_logger(Logger(None, []))
    return sac


class PlainSAC:
    """One task's SAC, which draws from random streams of its own.

    Stable-Baselines3 draws from the process's generators. They are this task's while it acts and learns, so what it
    learns does not depend on what the others do: it is what it would learn alone, bit for bit.

    :param task: its name.
    :param sac: just made: the generators are as its seed left them.
    """

    def __init__(self, task: str, sac: SAC) -> None:
        self.task, self.sac = task, sac
        self._streams = self._read()

    def draw(
        self, observation: Float[np.ndarray, "1 width"], step: int, learning_starts: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next action (1, A), as the environment and as the buffer takes it, after so many steps."""
        self.sac._last_obs, self.sac.num_timesteps = observation, step
        with self._at_work():
            return self.sac._sample_action(learning_starts)

    def train(self, gradient_steps: int, batch_size: int, progress_remaining: float) -> tuple[float, float, float]:
        """Make so many updates; return their critic loss, actor loss and temperature.

        :param progress_remaining: from 1 to 0, for the learning rate.
        :raises NonFiniteError: if the networks broke down before the losses did.
        """
        self.sac._current_progress_remaining = progress_remaining
        with self._at_work():
            self.sac.train(gradient_steps, batch_size)
        logged = self.sac.logger.name_to_value
        return logged["train/critic_loss"], logged["train/actor_loss"], logged["train/ent_coef"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, temperature and random streams."""
        return {
            "modules": self.sac.get_parameters(),
            "log_ent_coef": self.sac.log_ent_coef,
            "actions": self.sac.action_space.np_random.bit_generator.state,
            "streams": self._streams,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        modules = {name: with_own_options(attrgetter(name)(self.sac), own) for name, own in state["modules"].items()}
        self.sac.set_parameters(modules, device=self.sac.device)
        if self.sac.log_ent_coef is not None:
            with torch.no_grad():
                self.sac.log_ent_coef.copy_(state["log_ent_coef"])
        self.sac.action_space.np_random.bit_generator.state = state["actions"]
        self._streams |= state["streams"]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        others = self._read()
        self._write(self._streams)
        try:
            yield
        except ValueError as error:  # torch's distributions refuse NaN
            if not all(bool(parameter.isfinite().all()) for parameter in self.sac.policy.parameters()):
                raise NonFiniteError(self.task, "policy's output", self.sac._n_updates) from error
            raise
        finally:
            self._streams = self._read()
            self._write(others)

    def _read(self) -> dict[str, Any]:
        name, key, *position = np.random.get_state()
        streams = {"torch": torch.get_rng_state(), "numpy": (name, np.asarray(key, np.int64), *position)}
        if self.sac.device.type == "cuda":
            streams["cuda"] = torch.cuda.get_rng_state(self.sac.device)
        return streams

    def _write(self, streams: Mapping[str, Any]) -> None:
        torch.set_rng_state(streams["torch"])
        np.random.set_state(streams["numpy"])
        if self.sac.device.type == "cuda":
            torch.cuda.set_rng_state(streams["cuda"], self.sac.device)


def rows_of(observations: Any, num_tasks: int) -> Float[np.ndarray, "rows 1 width"]:
    """Return observations (N, D + T) as the tasks' SACs see them (N, 1, D + 1): the one-hot of a single task is a 1."""
    own = np.asarray(observations)[:, :-num_tasks]
    return np.concatenate([own, np.ones_like(own[:, :1])], axis=1)[:, None]


class TaskBuffers:
    """The replay buffers of T SACs as one.

    :param buffers: of one column each: Stable-Baselines3's own, or a `TaskReplayBuffer`.
    :param factors: on the tasks' rewards.
    """

    def __init__(self, buffers: Sequence[Any], factors: Sequence[float]) -> None:
        self.buffers, self._factors = buffers, np.array(factors, np.float32)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Store one vector step, as any buffer of Stable-Baselines3."""
        befores, afters = rows_of(obs, len(self.buffers)), rows_of(next_obs, len(self.buffers))
        reward = reward * self._factors
        for i, buffer in enumerate(self.buffers):
            one = slice(i, i + 1)
            buffer.add(befores[i], afters[i], action[one], reward[one], done[one], infos[one])

    @property
    def device(self) -> torch.device:
        """Where the rows lie: Stable-Baselines3's are in numpy."""
        own = self.buffers[0]
        return own.device if isinstance(own, TaskReplayBuffer) else torch.device("cpu")

    def nbytes(self, transitions: int) -> int:
        """Memory of so many transitions of each task."""
        return sum(
            buffer.nbytes(transitions)
            if isinstance(buffer, TaskReplayBuffer)
            else sum(getattr(buffer, name)[:transitions].nbytes for name in _ROWS)
            for buffer in self.buffers
        )

    def cut(self) -> None:
        """Let no sum of rewards go on from the newest rows: what is stored next belongs to other episodes."""
        for buffer in self.buffers:
            if isinstance(buffer, TaskReplayBuffer):
                buffer.cut()
            elif buffer.size():
                buffer.timeouts[buffer.pos - 1] = True

    def state_dict(self) -> dict[str, Any]:
        """Return the filled parts, by task."""
        return {"tasks": [_state_of(buffer) for buffer in self.buffers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        :raises StateFileError: if it is of another size.
        """
        for buffer, saved in zip(self.buffers, state["tasks"], strict=True):
            if isinstance(buffer, TaskReplayBuffer):
                buffer.load_state_dict(saved)
                continue
            if (found := saved["buffer_size"]) != buffer.buffer_size:
                raise StateFileError(
                    f"The saved buffer holds {found} transitions of a task, this agent's {buffer.buffer_size}. Load it "
                    f"into an agent with buffer_size={found}."
                )
            buffer.pos, buffer.full = saved["pos"], saved["full"]
            for name in _ROWS:
                getattr(buffer, name)[: buffer.size()] = saved[name]


def _state_of(buffer: Any) -> dict[str, Any]:
    if isinstance(buffer, TaskReplayBuffer):
        return buffer.state_dict()
    rows = {name: getattr(buffer, name)[: buffer.size()] for name in _ROWS}
    return {**rows, "pos": buffer.pos, "full": buffer.full, "buffer_size": buffer.buffer_size}
