"""Vector steps per second of a whole training run, and where its time goes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

from envs.suites import task_names
from scripts.bench.figures import Figure
from scripts.build import make_agent, make_env
from scripts.config import TrainConfig
from scripts.presets import PRESETS

WARMUP = 60  # vector steps without an update, then as many with


def training(preset: str, precisions: tuple[Any, ...], steps: int, **settings: Any) -> list[Figure]:
    """PCGrad with the settings of a preset but for those given: by precision, then without overlap."""
    figures, base = [], replace(PRESETS[preset][1], goals=2, aggregator="pcgrad", **settings)
    base, num_tasks = replace(base, warmup_steps=WARMUP, log_every=steps), len(task_names(base.suite))
    for precision in precisions:
        rate, split = _run(replace(base, precision=precision), steps)
        figures.append(Figure(f"training, {preset}, PCGrad, {precision}", rate, "vector steps/s"))
        figures.append(Figure("   all tasks together", rate * num_tasks, "env steps/s"))
        figures += [Figure(f"   of a step: {part}", 1e3 * seconds, "ms") for part, seconds in split.items()]
    alone, _ = _run(replace(base, precision=precisions[-1], overlap=False), steps)
    what = f"training, {preset}, PCGrad, {precisions[-1]}, without overlap"
    return [*figures, Figure(what, alone, "vector steps/s", alone / rate, "the rate with it")]


def _run(config: TrainConfig, steps: int) -> tuple[float, dict[str, float]]:
    """Vector steps/s, and seconds per step waiting for the environments, acting, learning, and on all else."""
    with closing(make_env(config, config.goals)) as env:
        agent = make_agent(config, env)
        agent.learn(2 * WARMUP * env.num_envs)
        before, start = dict(agent.seconds), time.perf_counter()
        agent.learn(steps * env.num_envs, reset_num_timesteps=False)
        seconds = time.perf_counter() - start
    names = {"env": "waiting for the environments", "act": "acting", "learn": "updating"}
    split = {name: (agent.seconds[part] - before[part]) / steps for part, name in names.items()}
    return steps / seconds, {**split, "storing, logging": seconds / steps - sum(split.values())}
