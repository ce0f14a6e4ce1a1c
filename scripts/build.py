"""From a config to its environment and its agent."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich import filesize

import envs
from agents import MTSAC, keep_freed_memory
from agents.replay import TaskReplayBuffer
from envs.vec_env import TaskVecEnv
from scripts.cli import UsageError, usage_errors
from scripts.config import TrainConfig


def resolve(config: TrainConfig) -> TrainConfig:
    """Replaces `auto` by what this machine has, so that the saved config says what was used; fits this process to it.

    Raises UsageError if CUDA is asked for and not there.
    """
    require_device(config.device)
    device: Literal["cpu", "cuda"] = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads() if config.threads == "auto" else config.threads
    torch.set_num_threads(threads)
    keep_freed_memory()
    return replace(config, device=device, threads=threads)


def require_device(device: str) -> None:
    """Raises UsageError if CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("expected a CUDA device for --device cuda; torch finds none. Use --device cpu or auto.")


def run_path(config: TrainConfig) -> Path:
    """Where the run goes: --run-dir, or a name in `runs` that says what it is."""
    some = config.tasks if len(config.tasks) <= 3 else (f"{len(config.tasks)}-tasks",)
    name = "independent" if config.independent else config.aggregator
    method = re.sub(r"[^\w-]+", "-", name.rpartition("/")[2])  # torchjd:NAME, path/to/file.py:NAME
    parts = (config.preset, *some, method, f"seed{config.seed}")
    return Path(config.run_dir or f"runs/{'-'.join(parts)}")


def make_env(
    config: TrainConfig,
    goals: int | Mapping[str, np.ndarray],
    goal_order: Literal["random", "sequential"] = "random",
) -> TaskVecEnv:
    """The tasks of the config: goals in random order to train on, each once in order to evaluate on."""
    with usage_errors():
        return envs.make(
            config.suite,
            config.seed,
            workers=config.workers,
            reward_version=config.reward_version,
            tasks=list(config.tasks) or None,
            goals=goals if isinstance(goals, int) else dict(goals),
            horizon=config.horizon,
            goal_order=goal_order,
        )


def make_agent(config: TrainConfig, env: TaskVecEnv) -> MTSAC:
    """A new agent for the tasks of `env`."""
    with usage_errors():
        return MTSAC(
            "MultiTaskMlpPolicy",
            env,
            aggregator=config.aggregator,
            aggregator_kwargs=config.aggregator_options,
            critic_aggregator=config.critic_aggregator or None,
            critic_aggregator_kwargs=config.critic_aggregator_options,
            learning_rate=config.learning_rate,
            buffer_size=config.buffer_size,
            learning_starts=config.warmup_steps * env.num_envs,
            batch_size=config.batch_size,
            tau=config.tau,
            gamma=config.gamma,
            train_freq=config.train_freq,
            gradient_steps=config.gradient_steps,
            ent_coef=config.ent_coef if config.ent_coef.startswith("auto") else float(config.ent_coef),
            target_entropy=config.target_entropy,
            max_grad_norm=config.max_grad_norm or None,
            reward_scale=config.reward_scale[0] if len(config.reward_scale) == 1 else config.reward_scale,
            loss_weighting=config.loss_weighting,
            overlap=config.overlap,
            log_every=config.log_every,
            log_conflicts=config.log_conflicts,
            policy_kwargs={
                "actor_width": config.actor_width,
                "actor_depth": config.actor_depth,
                "critic_width": config.critic_width,
                "critic_depth": config.critic_depth,
                "layer_norm": config.layer_norm,
                "multi_head": config.multi_head,
                "precision": config.precision,
                "optimizer_kwargs": {"eps": config.adam_eps},
            },
            seed=config.seed,
            device=config.device,
        )


def buffer_bytes(config: TrainConfig, env: TaskVecEnv) -> int:
    """Memory of the replay buffer once it is full."""
    (columns,), (actions,) = env.observation_space.shape or (), env.action_space.shape or ()
    return TaskReplayBuffer.bytes_needed(config.buffer_size, env.num_envs, columns - env.num_envs, actions)


def check_memory(config: TrainConfig, env: TaskVecEnv) -> None:
    """Raises UsageError if the full replay buffer is larger than the memory of the device that it lives on."""
    needed, there = buffer_bytes(config, env), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.device == "cuda":
        there = torch.cuda.get_device_properties(0).total_memory
    if needed > there:
        raise UsageError(
            f"--buffer-size: expected a replay buffer that fits in memory; {config.buffer_size:,} transitions of each "
            f"of {env.num_envs} tasks need {filesize.decimal(needed)}, there are {filesize.decimal(there)}. Keep fewer."
        )
