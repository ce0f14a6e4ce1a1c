"""Where a training's time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds spent in each part of a training.

    :param parts: their names.
    """

    def __init__(self, *parts: str):
        self.seconds = dict.fromkeys(parts, 0.0)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[part]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start
