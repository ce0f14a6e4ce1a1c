"""Time and memory of one update of MTSAC, and of an aggregator alone."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box

from agents import MTSAC, keep_freed_memory
from envs import from_gymnasium
from mtrl import make_aggregator
from scripts.bench.figures import Figure, compare, take_turns
from scripts.runs.forecast import Noise

NUM_PARAMS = 1_070_000  # shared parameters of actor and critics of 3 x 400 on MT10, one row of a Jacobian


@dataclass(frozen=True)
class Size:
    """What an update computes."""

    num_tasks: int = 10
    batch_size: int = 128
    width: int = 400
    depth: int = 3
    layer_norm: bool = False
    threads: int = 1
    device: str = "cpu"
    capture: bool = False

    def __str__(self) -> str:
        return f"{self.num_tasks} tasks"


def make_agent(size: Size, aggregator: str, precision: str) -> MTSAC:
    """Return an agent with 200 transitions per task in its buffer, warmed up."""
    noise = partial(Noise, 39, Box(-1.0, 1.0, (4,), np.float32))  # Meta-World's sizes
    env = from_gymnasium([noise] * size.num_tasks, [f"task-{i}" for i in range(size.num_tasks)])
    networks = {f"{net}_{side}": getattr(size, side) for net in ("actor", "critic") for side in ("width", "depth")}
    norms = {f"{net}_layer_norm": size.layer_norm for net in ("actor", "critic")}
    agent = MTSAC(
        "MultiTaskMlpPolicy",
        env,
        aggregator,
        batch_size=size.batch_size,
        buffer_size=200,
        learning_starts=10**9,
        max_grad_norm=1.0,
        log_every=10**9,
        log_conflicts=0,
        policy_kwargs={**networks, **norms, "precision": precision},
        seed=0,
        device=size.device,
        capture=size.capture,
    )
    agent.learn(200 * size.num_tasks)
    agent.train(3, size.batch_size)
    return agent


def updates(size: Size, aggregators: tuple[str, ...], precisions: tuple[str, ...], rounds: int) -> list[Figure]:
    """One update for each aggregator and precision; the first of each is what the others are compared with."""
    agents = {(precision, name): make_agent(size, name, precision) for precision in precisions for name in aggregators}
    ways = {" ".join(key): partial(_update, agent) for key, agent in agents.items()}
    seconds = take_turns(ways, rounds, size.device)
    figures = []
    for precision, name in agents:
        key, first = f"{precision} {name}", f"{precision} {aggregators[0]}"
        what, milliseconds = f"update, {size}, {name}, {precision}", 1e3 * float(np.median(seconds[key]))
        figures.append(Figure(what, milliseconds, "ms", compare(seconds, key, first), f"{aggregators[0]}'s time"))
    return figures


def _update(agent: MTSAC) -> None:
    agent.train(1, agent.batch_size)


def aggregations(size: Size, aggregators: tuple[str, ...], rounds: int) -> list[Figure]:
    """Time an aggregator alone, from a given Jacobian."""
    jacobian = torch.randn(size.num_tasks, NUM_PARAMS, device=size.device)
    losses = torch.rand(size.num_tasks, device=size.device)
    methods = {name: make_aggregator(name).to(size.device) for name in aggregators}

    for method in methods.values():
        method.reset(size.num_tasks, NUM_PARAMS)
    ways = {name: partial(method, jacobian, losses) for name, method in methods.items()}
    seconds = take_turns(ways, rounds, size.device)
    shape = f"({size.num_tasks}, {NUM_PARAMS / 1e6:.2f}M)"
    return [
        Figure(f"{name} alone, Jacobian {shape}", 1e3 * float(np.median(values)), "ms")
        for name, values in seconds.items()
    ]


def memory(size: Size, aggregators: tuple[str, ...], precision: str) -> list[Figure]:
    """Peak memory of a process that makes updates with one aggregator and does nothing else."""
    cuda = size.device == "cuda"
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        jobs = [(size, name, precision) for name in aggregators]
        peaks = pool.starmap(_peak_megabytes, jobs, chunksize=1)
    where = "GPU memory" if cuda else "peak memory"
    return [
        Figure(f"{where}, {size}, {name}, {precision}", peak, "MB", peak / peaks[0], f"{aggregators[0]}'s")
        for name, peak in zip(aggregators, peaks, strict=True)
    ]


def _peak_megabytes(size: Size, aggregator: str, precision: str) -> float:
    torch.set_num_threads(size.threads)
    keep_freed_memory()
    agent = make_agent(size, aggregator, precision)
    for _ in range(3):
        _update(agent)
    if size.device == "cuda":  # what torch has taken from the device: a graph keeps what it used
        return torch.cuda.max_memory_reserved() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent, whose memory a new process has until it starts anew
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
