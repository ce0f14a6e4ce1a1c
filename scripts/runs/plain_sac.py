"""Stable-Baselines3's own `SAC` with a preset's networks and settings, for one task; and T of them as one agent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from agents import TaskReplayBuffer
from agents.fields import settings_of, taken_by
from agents.schedules import learning_schedule
from agents.settings import AgentSettings, SACSettings
from scripts.setup.config import TrainConfig


class RewardScale(VecEnvWrapper):
    """Multiplies the rewards, as MTSAC does in its update; the returns in `infos` stay raw."""

    def __init__(self, venv: VecEnv, factor: float) -> None:
        super().__init__(venv)
        self.factor = np.float32(factor)

    def reset(self) -> Any:
        """As the environment's."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """As the environment's, rewards scaled."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * self.factor, dones, infos


class SizedPolicy(SACPolicy):
    """Stable-Baselines3's policy, with LayerNorm before each ReLU where the preset has it.

    :param norms: widths (actor, critic) of the normalised layers; None for no LayerNorm there.
    """

    def __init__(self, *args: Any, norms: tuple[int | None, int | None] = (None, None), **kwargs: Any) -> None:
        self.norms = norms
        super().__init__(*args, **kwargs)

    def make_actor(self, features_extractor: Any = None) -> Actor:
        """The actor. An activation is made without being told its width, so it is one that knows it."""
        if self.norms[0]:
            self.actor_kwargs["activation_fn"] = partial(_norm_relu, self.norms[0])
        return super().make_actor(features_extractor)

    def make_critic(self, features_extractor: Any = None) -> Any:
        """The critics, or their targets."""
        if self.norms[1]:
            self.critic_kwargs["activation_fn"] = partial(_norm_relu, self.norms[1])
        return super().make_critic(features_extractor)


def _norm_relu(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.ReLU())


def policy_options(config: TrainConfig) -> dict[str, Any]:
    """The preset's networks as `policy_kwargs`."""
    layers = {"pi": [config.actor_width] * config.actor_depth, "qf": [config.critic_width] * config.critic_depth}
    norms = (
        config.actor_width if config.actor_layer_norm else None,
        config.critic_width if config.critic_layer_norm else None,
    )
    return {"net_arch": layers, "norms": norms, "optimizer_kwargs": {"eps": config.adam_eps}}


def make_sac(config: TrainConfig, env: VecEnv, seed: int) -> SAC:
    """A new SAC with the preset's settings, for the one task of `env`; its own buffer, unless that cannot draw rows for
    their reward."""
    shared = {name: getattr(config, name) for name in settings_of(SACSettings)}
    settings = vars(AgentSettings.of({**shared, "learning_starts": config.warmup_steps, "seed": seed}))
    if config.high_reward_fraction:
        own = taken_by(TaskReplayBuffer, settings)
        buffer = {name: value for name, value in own.items() if name not in signature(ReplayBuffer).parameters}
        # a buffer of one's own sums the rewards itself
        settings = {
            **settings,
            "n_steps": 1,
            "replay_buffer_class": TaskReplayBuffer,
            "replay_buffer_kwargs": {**buffer, "num_tasks": 1},
        }
    settings = {**settings, "learning_rate": learning_schedule(config.learning_rate), "device": config.device}
    return SAC(SizedPolicy, env, policy_kwargs=policy_options(config), **taken_by(SAC, settings))


def make_actor(config: TrainConfig, observation_size: int, action_space: spaces.Space) -> Actor:
    """An actor as `make_sac` has it, to be filled with trained weights."""
    space = spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
    return SizedPolicy(space, action_space, lambda _: 0.0, **policy_options(config)).actor


class Team:
    """One actor per task, acting as one agent.

    :param steps: environment steps that each was trained for.
    """

    def __init__(self, task_names: tuple[str, ...], actors: Sequence[Actor], steps: int) -> None:
        self.task_names, self.actors, self.steps_per_task = task_names, actors, steps

    def predict(
        self, observations: Float[np.ndarray, "tasks width"], deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        """Actions (T, A) for observations (T, D + T): row i by actor i, with the one-hot of one task: 1."""
        own = observations[:, : -len(self.actors)]
        rows = np.concatenate([own, np.ones_like(own[:, :1])], axis=1)
        pairs = zip(self.actors, rows, strict=True)
        return np.stack([actor.predict(row, deterministic=deterministic)[0] for actor, row in pairs]), None
