"""What the values of single settings must fulfil."""

from __future__ import annotations

import math
from typing import Any

from agents.fields import Bound, Registered

MAX_EXPERTS = 64  # each costs as much as a network without them
MAX_CANDIDATES = 1024  # beyond it the best row of all comes again and again, and the draws cost more than the update


def is_positive(value: Any) -> bool:
    """Whether it is, or spells, a finite number above 0."""
    try:
        return 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


def _is_rate(value: float | str) -> bool:
    return is_positive(value.removeprefix("linear:") if isinstance(value, str) else value)


def _is_temperature(value: float | str) -> bool:
    if isinstance(value, str) and value.startswith("auto"):
        return value == "auto" or is_positive(value.removeprefix("auto_"))
    return is_positive(value) or str(value) in ("0", "0.0")


def _is_growing(steps: tuple[int, ...]) -> bool:
    return list(steps) == sorted({step for step in steps if step > 0})


RATE = Bound("more than 0, or linear:3e-4, a schedule that falls from there to 0", _is_rate)
TEMPERATURE = Bound("auto, auto_X with a finite X above 0, or a finite number of at least 0", _is_temperature)
FINITE = Bound("a finite number", math.isfinite)
AUTO_OR_FINITE = Bound("auto or a finite number", lambda value: value == "auto" or math.isfinite(value))
FACTORS = Bound(
    "finite factors above 0: one, or one per task", lambda value: len(value) > 0 and all(map(is_positive, value))
)
GROWING = Bound("growing whole numbers of steps above 0", _is_growing)
EXPERTS = Bound(f"1 to {MAX_EXPERTS}", lambda value: 1 <= value <= MAX_EXPERTS)
CANDIDATES = Bound(f"1 to {MAX_CANDIDATES}", lambda value: 1 <= value <= MAX_CANDIDATES)
SEED = Bound("a seed of 0 to 2**32 - 1", lambda value: value is None or value < 2**32)
TORSO = Registered("agents.networks.torsos:TORSOS")
CONDITIONING = Registered("agents.networks.conditionings:CONDITIONINGS")
