"""Which observation and action spaces tasks may have."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


def common_spaces(names: Sequence[str], envs: Sequence[Any]) -> tuple[Box, Box]:
    """Return the observation and action space that all tasks share.

    :param envs: environments, or classes with spaces as class attributes.
    :raises ValueError: naming two tasks whose spaces differ, or spaces that are not rows of numbers, the actions' real
        and between bounds.
    """
    first = envs[0]
    for name, env in zip(names, envs, strict=True):
        for kind in ("observation_space", "action_space"):
            if getattr(env, kind, None) is None:
                raise ValueError(f"expected an {kind} of each task; found none at {name}; set it in its __init__")
            expected, found = getattr(first, kind), getattr(env, kind)
            if expected != found:
                raise ValueError(
                    f"expected one {kind} for all tasks; found {spelled(expected)} at {names[0]} and {spelled(found)} "
                    f"at {name}; pad or wrap the environments"
                )
    if not isinstance(first.observation_space, Box) or len(first.observation_space.shape) != 1:
        raise ValueError(
            f"expected observations in a one-dimensional Box, found {spelled(first.observation_space)}; flatten them"
        )
    if not _is_bounded_row(first.action_space):
        raise ValueError(
            "expected actions in a one-dimensional Box of real numbers, each between finite bounds that float32 can "
            f"tell apart; found {spelled(first.action_space)}; wrap the environments "
            "(gymnasium.wrappers.TransformAction)"
        )
    return first.observation_space, first.action_space


def spelled(space: gymnasium.Space) -> str:
    """Write a space in one line."""
    return " ".join(str(space).split())


def _is_bounded_row(space: gymnasium.Space) -> bool:
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        size = space.high.astype(np.float32) - space.low.astype(np.float32)
    return bool(np.all((size > 0) & (size < np.inf)))
