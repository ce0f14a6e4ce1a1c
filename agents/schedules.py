"""Learning rates by name, because a saved agent holds no code."""

from __future__ import annotations

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule


def learning_schedule(learning_rate: float | str) -> float | Schedule:
    """Return what Stable-Baselines3 takes: a number as it is; "linear:3e-4" falls from 3e-4 to 0 over the run."""
    if isinstance(learning_rate, str) and learning_rate.startswith("linear:"):
        return LinearSchedule(float(learning_rate.removeprefix("linear:")), 0.0, 1.0)
    return float(learning_rate)
