"""What a benchmark measures, and how: ways that take turns, so that a machine that is busy for a while slows all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

Ways = Mapping[str, Callable[[], object]]

_clock = time.perf_counter


@dataclass(frozen=True)
class Figure:
    """One measured number, and how it compares with another one of the same run."""

    what: str
    value: float
    unit: str
    ratio: float | None = None
    against: str = ""


def use_cpu_time() -> None:
    """Measure the CPU time of this process from now on: where other work fills the machine, and on one thread."""
    global _clock
    _clock = time.process_time


def take_turns(ways: Ways, rounds: int, device: str = "cpu") -> dict[str, Float[np.ndarray, " rounds"]]:
    """Seconds of each way, one measurement per round; every way is called once before, to warm up.

    :param device: "cuda": the device's own time, between two events around what it was given.
    """
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(_seconds_on_cuda(way) if device == "cuda" else _seconds(way))
    return {name: np.array(values) for name, values in seconds.items()}


def _seconds(way: Callable[[], object]) -> float:
    start = _clock()
    way()
    return _clock() - start


def _seconds_on_cuda(way: Callable[[], object]) -> float:
    torch.cuda.synchronize()  # the device begins idle: a host that is slower than it counts
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    way()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def compare(seconds: Mapping[str, np.ndarray], name: str, against: str) -> float:
    """How many times as long `name` takes as `against`: the median over rounds, each round within itself."""
    return float(np.median(seconds[name] / seconds[against]))
