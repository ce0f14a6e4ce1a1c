"""Tasks that go wrong on purpose, importable in a worker."""

import os
import signal
import time
from typing import Any, Literal

import numpy as np

from envs.toy import Countdown


class Faulty(Countdown):
    """Do `fault` at the second step of the first episode."""

    def __init__(self, fault: Literal["raise", "hang", "die", "none"]) -> None:
        super().__init__("terminated")
        self._fault = fault

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        if self._left == 1:
            self._misbehave()
        return result

    def _misbehave(self) -> None:
        if self._fault == "raise":
            raise ZeroDivisionError("the floor is lava")
        if self._fault == "hang":
            time.sleep(3600)
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)


class Unbuildable(Countdown):
    def __init__(self) -> None:
        raise ValueError("no such model")
