"""Tasks that go wrong on purpose, importable in a worker."""

import math
import os
import signal
import time
from typing import Any, Literal

import numpy as np

from tests.odd_tasks import Countdown


class Faulty(Countdown):
    """Do `fault` at step `at`, and give rewards of NaN or 1e15 from then on if that is the fault.

    A "slow" step takes half a second, in short naps, a "slow-reset" three and a half.
    """

    def __init__(
        self, fault: Literal["raise", "exit", "hang", "die", "nan", "huge", "slow", "slow-reset", "none"], at: int = 2
    ) -> None:
        super().__init__("terminated")
        self._fault, self._at, self._steps = fault, at, 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        if self._fault == "slow-reset" and self._steps:
            time.sleep(3.5)
        return super().reset(**options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self._steps += 1
        if self._steps == self._at:
            self._misbehave()
        if self._steps >= self._at:
            reward = {"nan": math.nan, "huge": 1e15}.get(self._fault, reward)
        return observation, reward, terminated, truncated, info

    def process(self) -> int:
        return os.getpid()

    def _misbehave(self) -> None:
        if self._fault == "raise":
            raise ZeroDivisionError("the floor is lava")
        if self._fault == "exit":
            raise SystemExit(0)  # as code does that was written as a command
        if self._fault == "hang":
            time.sleep(3600)
        if self._fault == "slow":
            for _ in range(25):
                time.sleep(0.02)
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)


class Unbuildable(Countdown):
    def __init__(self) -> None:
        raise ValueError("no such model")
