"""Time and memory of one update, per aggregator, side by side in one run.

python -m scripts.bench                                   MT10: 128 rows per task, 3 x 400, mean and PCGrad
python -m scripts.bench --num-tasks 50 --rounds 5         MT50

The aggregators take turns, so that a machine that is busy for a while slows all of them; quote the ratios. Memory is
the peak of a process of its own per aggregator.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box
from rich.console import Console
from rich.table import Table

from agents import MTSAC
from envs import from_gymnasium
from mtrl import AGGREGATORS
from scripts import cli
from scripts.build import require_device
from scripts.config import Names
from scripts.run_folder import write_json

NUMBERS = ("num_tasks", "batch_size", "width", "depth", "threads", "rounds")


@dataclass(frozen=True)
class BenchConfig:
    """Median time and peak memory of one update of MTSAC."""

    aggregators: Names = ("mean", "pcgrad")
    """Names; the first is what the others are compared with."""
    num_tasks: int = 10
    """T: 10 as in MT10, 50 as in MT50."""
    batch_size: int = 128
    """Rows per task."""
    width: int = 400
    """Units in a hidden layer, of actor and critics."""
    depth: int = 3
    """Hidden layers."""
    layer_norm: bool = False
    """LayerNorm before each ReLU."""
    threads: int = torch.get_num_threads()
    """Threads of torch."""
    rounds: int = 20
    """Rounds; in each, every aggregator makes three updates."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks live."""
    json: Path | None = None
    """Write the numbers to this file, too."""


class Noise(gymnasium.Env):
    """Observations of Meta-World's size, drawn at random: an update does not care."""

    observation_space = Box(-np.inf, np.inf, (39,), np.float32)
    action_space = Box(-1.0, 1.0, (4,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw an observation."""
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Draw another one."""
        return self._draw(), float(self.np_random.random()), False, False, {}

    def _draw(self) -> np.ndarray:
        return self.np_random.standard_normal(39, dtype=np.float32)


def make_agent(config: BenchConfig, aggregator: str) -> MTSAC:
    """An agent with 200 transitions per task in its buffer, warmed up."""
    env = from_gymnasium([Noise] * config.num_tasks, [f"task-{i}" for i in range(config.num_tasks)])
    sizes = {"actor_width": config.width, "critic_width": config.width, "actor_depth": config.depth}
    agent = MTSAC(
        "MultiTaskMlpPolicy",
        env,
        aggregator,
        batch_size=config.batch_size,
        buffer_size=200,
        learning_starts=10**9,
        max_grad_norm=1.0,
        log_every=10**9,
        diagnostics_every=0,
        policy_kwargs={**sizes, "critic_depth": config.depth, "layer_norm": config.layer_norm},
        seed=0,
        device=config.device,
    )
    agent.learn(200 * config.num_tasks)
    agent.train(3, config.batch_size)
    return agent


def seconds_per_update(agent: MTSAC, updates: int = 3) -> float:
    """Wall clock of one update."""
    start = time.perf_counter()
    agent.train(updates, agent.batch_size)
    if agent.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / updates


def peak_megabytes(config: BenchConfig) -> float:
    """Peak resident memory of a process that only makes updates with the one aggregator of `config`."""
    torch.set_num_threads(config.threads)
    seconds_per_update(make_agent(config, config.aggregators[0]))
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent, whose memory a new process has until it starts anew
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(config: BenchConfig) -> dict[str, dict[str, float]]:
    """Per aggregator: median and minimum seconds per update, ratio to the first, peak memory in MB."""
    torch.set_num_threads(config.threads)
    agents = {name: make_agent(config, name) for name in config.aggregators}
    times = np.array([[seconds_per_update(agent) for agent in agents.values()] for _ in range(config.rounds)])
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak_megabytes, [replace(config, aggregators=(name,)) for name in agents], chunksize=1)
    return {
        name: {
            "seconds_median": float(np.median(times[:, i])),
            "seconds_min": float(times[:, i].min()),
            "ratio_median": float(np.median(times[:, i] / times[:, 0])),
            "peak_megabytes": round(peaks[i], 1),
        }
        for i, name in enumerate(agents)
    }


def main(argv: Sequence[str]) -> int:
    """Measures, prints a table, and writes the numbers if asked to."""
    config = tyro.cli(BenchConfig, prog="python -m scripts.bench", args=argv)
    for name in NUMBERS:
        if getattr(config, name) < 1:
            raise cli.UsageError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(config, name)}.")
    for name in config.aggregators:
        cli.choose("aggregator", name, AGGREGATORS)
    require_device(config.device)
    if config.json:
        cli.check_output("--json", config.json)
    results = measure(config)
    title = f"One update: {config.num_tasks} tasks, {config.batch_size} rows each, {config.depth} x {config.width}"
    table = Table("aggregator", "median ms", "min ms", f"x {config.aggregators[0]}", "peak MB", title=title)
    for name, row in results.items():
        milliseconds = (f"{1e3 * row['seconds_median']:.1f}", f"{1e3 * row['seconds_min']:.1f}")
        table.add_row(name, *milliseconds, f"{row['ratio_median']:.2f}", f"{row['peak_megabytes']:.0f}")
    Console(highlight=False).print(
        table, f"{config.threads} threads, {config.rounds} rounds, torch {torch.__version__}"
    )
    if config.json:
        write_json(config.json, {"settings": {name: getattr(config, name) for name in NUMBERS}, "results": results})
    return 0


if __name__ == "__main__":
    cli.run(main)
