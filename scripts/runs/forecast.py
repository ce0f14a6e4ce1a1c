"""How long a training will take here: a few updates and steps of its size, timed beside it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from agents import MTSAC
from envs import from_gymnasium
from envs.vec_env import TaskVecEnv
from scripts.setup.build import make_agent
from scripts.setup.config import TrainConfig

TIMES = 8  # each is timed so often; as many updates come before, in which graphs are captured and memory is taken


class Noise(gymnasium.Env):
    """Observations and rewards drawn at random: an update does not care."""

    def __init__(self, size: int, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw an observation."""
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Draw another one."""
        return self._draw(), float(self.np_random.random()), False, False, {}

    def _draw(self) -> np.ndarray:
        return self.np_random.standard_normal(self.observation_space.shape, dtype=np.float32)


@dataclass(frozen=True)
class Forecast:
    """Seconds that the rest of a run will take, if nothing else keeps the machine busy."""

    updates: float
    environments: float
    evaluations: float
    side_by_side: bool  # environments step in workers or on other cores while the agent learns
    compiled: bool = False  # updates will be, which takes a minute or two first; the time told is that of eager ones

    @property
    def total(self) -> float:
        """Seconds in all."""
        training = (self.updates, self.environments)
        return (max(training) if self.side_by_side else sum(training)) + self.evaluations

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in ("updates", "environments", "evaluations")}
        notes = {"updates": ", less once they are compiled" if self.compiled else ""}
        told = ", ".join(f"{name} {_minutes(seconds)}{notes.get(name, '')}" for name, seconds in parts.items())
        return f"this will take about {_minutes(self.total)} if nothing else runs here ({told})"


def forecast(config: TrainConfig, evaluation_env: TaskVecEnv, steps_done: int = 0) -> Forecast:
    """Time updates of another agent of the same size, and steps of the evaluation's environments.

    Neither touches the run: its agent, its environments and the random numbers that it will draw stay as they are.
    """
    with _same_randomness():
        update, act = _learning(config, evaluation_env)
        step = _stepping(evaluation_env)
    left = config.steps_per_task - steps_done
    rounds = max(0, config.steps_per_task - max(steps_done, config.warmup_steps)) / config.train_freq
    passed = config.steps_per_task // config.eval_every - steps_done // config.eval_every if config.eval_every else 0
    episodes = max(0, passed - 1) * config.eval_goals + config.final_goals
    return Forecast(
        updates=rounds * config.gradient_steps * update + left / config.envs_per_task * act,
        environments=left * step,
        evaluations=episodes * config.horizon * (step + act),
        side_by_side=config.overlap and evaluation_env.num_workers > 0,
        compiled=config.compile is True,
    )


def trained_on_noise(config: TrainConfig, names: Sequence[str], size: int, actions: spaces.Space) -> MTSAC:
    """Return an agent of the config that has made `TIMES` updates.

    :param size: numbers of an observation, without the one-hot.
    """
    noise = from_gymnasium([partial(Noise, size, actions)] * len(names), list(names))
    one_by_one = replace(
        config, buffer_size=2 + TIMES, warmup_steps=2, envs_per_task=1, train_freq=1, gradient_steps=1,
        reset_at=(), log_conflicts=0, log_every=10**6, overlap=False,
    )  # fmt: skip
    agent = make_agent(one_by_one, noise)
    agent.learn((2 + TIMES) * len(names))
    return agent


def _learning(config: TrainConfig, env: TaskVecEnv) -> tuple[float, float]:
    """Seconds of an update, and of choosing actions for all tasks."""
    size = env.observation_space.shape[0] - env.num_tasks  # type: ignore[index]
    agent = trained_on_noise(replace(config, compile=False), env.task_names, size, env.action_space)
    observations = np.asarray(agent._last_obs)

    def update() -> None:
        agent.train(1, config.batch_size)
        if agent.device.type == "cuda":
            torch.cuda.synchronize()

    threads = 0 if agent.device.type == "cuda" else torch.get_num_threads()
    return _fastest(update, threads), _fastest(lambda: agent.predict(observations, deterministic=True), threads)


def _stepping(env: TaskVecEnv) -> float:
    """Seconds of a step of one environment per task, as part of a vector step of all."""
    generator = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    actions = [generator.uniform(low, high, (env.num_envs, *low.shape)).astype(np.float32) for _ in range(TIMES)]
    env.reset()
    return _fastest(lambda: env.step(actions.pop()), threads=0 if env.num_workers else 1) / env.envs_per_task


def _fastest(call: Callable[[], Any], threads: int) -> float:
    """Seconds of a call that nothing else holds up: of so many threads of this process; 0: of other processes, too."""
    clock = time.process_time if threads else time.perf_counter
    seconds = []
    for _ in range(TIMES):
        start = clock()
        call()
        seconds.append(clock() - start)
    return min(seconds) / max(1, threads)


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Leave the generators of the process as they were: building an agent seeds them."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        yield
    np.random.set_state(numpys)
    random.setstate(pythons)


def _minutes(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
