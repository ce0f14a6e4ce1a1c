"""Time and memory of one update of MTSAC, and of an aggregator alone."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.spaces import Box

from agents import MTSAC, keep_freed_memory
from agents.device.graphs import WARM_UP
from envs import from_gymnasium
from envs.meta_world.suites import task_names
from mtrl import make_aggregator
from scripts.bench.figures import Figure, compare, take_turns
from scripts.runs.forecast import Noise, trained_on_noise
from scripts.setup.presets import PRESETS

OBSERVATION, ACTION = 39, 4  # Meta-World's numbers
NUM_PARAMS = 1_070_000  # shared parameters of actor and critics of 3 x 400 on MT10, one row of a Jacobian


@runtime_checkable
class Sized(Protocol):
    """What an update computes; its text names it."""

    @property
    def device(self) -> str:
        """Device of the networks."""

    def make_agent(self, aggregator: str, precision: str, compile: bool = False) -> MTSAC:
        """Return an agent whose updates are warmed up."""


@dataclass(frozen=True)
class Size:
    """An update of plain networks.

    :param networks: further settings of theirs.
    """

    num_tasks: int = 10
    batch_size: int = 128
    width: int = 400
    depth: int = 3
    layer_norm: bool = False
    threads: int = 1
    device: str = "cpu"
    capture: bool = False
    networks: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.num_tasks} tasks"

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """Settings of the networks."""
        sizes = {f"{net}_{side}": getattr(self, side) for net in ("actor", "critic") for side in ("width", "depth")}
        norms = {f"{net}_layer_norm": self.layer_norm for net in ("actor", "critic")}
        return {**sizes, **norms, **self.networks}

    def make_agent(self, aggregator: str, precision: str, compile: bool = False) -> MTSAC:
        """Return an agent with 200 transitions per task in its buffer, warmed up."""
        noise = partial(Noise, OBSERVATION, Box(-1.0, 1.0, (ACTION,), np.float32))
        env = from_gymnasium([noise] * self.num_tasks, [f"task-{i}" for i in range(self.num_tasks)])
        agent = MTSAC(
            "MultiTaskMlpPolicy",
            env,
            aggregator,
            batch_size=self.batch_size,
            buffer_size=200,
            learning_starts=10**9,
            max_grad_norm=1.0,
            log_every=10**9,
            log_conflicts=0,
            policy_kwargs={**self.policy_kwargs, "precision": precision},
            seed=0,
            device=self.device,
            capture=self.capture,
            compile=compile,
        )
        agent.learn(200 * self.num_tasks)
        agent.train(1 + WARM_UP, self.batch_size)
        return agent


@dataclass(frozen=True)
class PresetSize:
    """An update with the settings of a preset, its own suite and batch size among them."""

    preset: str
    device: Literal["cpu", "cuda"] = "cpu"
    capture: bool = False

    def __str__(self) -> str:
        return self.preset

    def make_agent(self, aggregator: str, precision: str, compile: bool = False) -> MTSAC:
        """Return an agent that has made a few updates."""
        config = replace(
            PRESETS[self.preset].config,
            aggregator=aggregator,
            precision=precision,  # type: ignore[arg-type]  # checked by the command
            compile=compile,
            device=self.device,
            capture=self.capture,
        )
        return trained_on_noise(config, task_names(config.suite), OBSERVATION, Box(-1.0, 1.0, (ACTION,), np.float32))


def updates(
    size: Sized, aggregators: Sequence[str], precisions: Sequence[str], compile: bool, rounds: int
) -> list[Figure]:
    """One update for each aggregator and precision; the first of each is what the others are compared with.

    :param compile: also compiled ones, in turns with the eager ones.
    """
    hows = ("", ", compiled") if compile else ("",)
    agents = {
        f"{name}, {precision}{how}": size.make_agent(name, precision, bool(how))
        for precision in precisions
        for how in hows
        for name in aggregators
    }
    seconds = take_turns({what: partial(update, agent) for what, agent in agents.items()}, rounds, size.device)
    figures = []
    for what, values in seconds.items():
        rest = what.partition(", ")[2]
        ratio, first = compare(seconds, what, f"{aggregators[0]}, {rest}"), f"{aggregators[0]}'s time"
        figures.append(Figure(f"update, {size}, {what}", 1e3 * float(np.median(values)), "ms", ratio, first))
        if rest.endswith(hows[-1]) and compile:
            eager = what.removesuffix(hows[-1])
            figures.append(Figure(f"   {what}, against eager", compare(seconds, what, eager), "times"))
    return figures


def update(agent: MTSAC) -> None:
    """Make one."""
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
    agent = size.make_agent(aggregator, precision)
    for _ in range(3):
        update(agent)
    if size.device == "cuda":  # what torch has taken from the device: a graph keeps what it used
        return torch.cuda.max_memory_reserved() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent, whose memory a new process has until it starts anew
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
