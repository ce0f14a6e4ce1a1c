"""Vector steps per second of a whole training run, and where its time goes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

from envs.vec_env import TaskVecEnv
from scripts.bench.figures import Figure
from scripts.setup.build import make_agent, make_env
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS

WARMUP = 60  # vector steps without an update, then as many with


def training(preset: str, precisions: tuple[Any, ...], steps: int, **settings: Any) -> list[Figure]:
    """PCGrad with the settings of a preset but for those given: by precision, then without overlap."""
    figures, config = list[Figure](), PRESETS[preset].config
    base = replace(config, goals=2, aggregator="pcgrad", warmup_steps=WARMUP, log_every=steps, **settings)
    with closing(make_env(base, base.goals)) as env:  # which takes longer to build than a run does
        for precision in precisions:
            rate, split = _run(replace(base, precision=precision), env, steps)
            figures.append(Figure(f"training, {preset}, PCGrad, {precision}", rate, "vector steps/s"))
            figures.append(Figure("   all tasks together", rate * env.num_envs, "env steps/s"))
            figures += [Figure(f"   of a step: {part}", 1e3 * seconds, "ms") for part, seconds in split.items()]
        alone, _ = _run(replace(base, precision=precisions[-1], overlap=False), env, steps)
    what = f"training, {preset}, PCGrad, {precisions[-1]}, without overlap"
    return [*figures, Figure(what, alone, "vector steps/s", alone / rate, "the rate with it")]


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
