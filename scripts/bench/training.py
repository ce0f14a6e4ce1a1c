"""Vector steps per second of a whole training run, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from envs.vec_env import TaskVecEnv
from scripts.bench.figures import Figure, compare, take_turns
from scripts.setup.build import make_agent, make_env
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS

WARMUP = 60  # vector steps without an update, then as many with
TURN = 100  # vector steps; the first of a turn have nothing collected ahead of them


def training(preset: str, precisions: tuple[Any, ...], steps: int, **settings: Any) -> list[Figure]:
    """PCGrad with the settings of a preset but for those given: by precision, then without overlap."""
    figures, base = [], _base(preset, log_every=steps, **settings)
    with closing(make_env(base, base.goals)) as env:  # which takes longer to build than a run does
        for precision in precisions:
            rate, split = _run(replace(base, precision=precision), env, steps)
            figures.append(Figure(f"training, {preset}, PCGrad, {precision}", rate, "vector steps/s"))
            figures.append(Figure("   all tasks together", rate * env.num_envs, "env steps/s"))
            figures += [Figure(f"   of a step: {part}", 1e3 * seconds, "ms") for part, seconds in split.items()]
        alone, _ = _run(replace(base, precision=precisions[-1], overlap=False), env, steps)
    what = f"training, {preset}, PCGrad, {precisions[-1]}, without overlap"
    return [*figures, Figure(what, alone, "vector steps/s", alone / rate, "the rate with it")]


def ahead(preset: str, precision: Any, lags: Sequence[int], rounds: int, **settings: Any) -> list[Figure]:
    """PCGrad with the settings of a preset, collecting so many vector steps ahead, against none; all take turns."""
    base, ways = _base(preset, log_every=TURN, precision=precision, **settings), {}
    with ExitStack() as stack:
        for lag in (0, *lags) if lags else ():
            config = replace(base, collect_ahead=lag)
            env = stack.enter_context(closing(make_env(config, config.goals)))
            agent = make_agent(config, env)
            agent.learn(2 * WARMUP * env.num_envs)
            ways[lag] = partial(agent.learn, TURN * env.num_envs, reset_num_timesteps=False)
        seconds = take_turns({f"{lag}": way for lag, way in ways.items()}, rounds)
    return [
        Figure(
            f"training, {preset}, PCGrad, {precision}, {lag} steps ahead",
            TURN / float(np.median(seconds[lag])),
            "vector steps/s",
            1 / compare(seconds, lag, "0"),
            "the rate at 0",
        )
        for lag in seconds
    ]


def _base(preset: str, **settings: Any) -> TrainConfig:
    return replace(PRESETS[preset].config, goals=2, aggregator="pcgrad", warmup_steps=WARMUP, **settings)


def _run(config: TrainConfig, env: TaskVecEnv, steps: int) -> tuple[float, dict[str, float]]:
    """Vector steps/s, and seconds per step waiting for environments, acting, learning, and on all else."""
    agent = make_agent(config, env)
    agent.learn(2 * WARMUP * env.num_envs)
    before, start = dict(agent.seconds), time.perf_counter()
    agent.learn(steps * env.num_envs, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    names = {"env": "waiting for the environments", "act": "acting", "learn": "updating"}
    split = {name: (agent.seconds[part] - before[part]) / steps for part, name in names.items()}
    return steps / seconds, {**split, "storing, logging": seconds / steps - sum(split.values())}
