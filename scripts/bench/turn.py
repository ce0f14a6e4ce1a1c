"""One side of `scripts.bench --against`: the benchmark of one tree, which measures when it is its turn.

`python turn.py TREE TAKE GIVE CLOCK FLAGS...`, where TAKE and GIVE are inherited pipes through which one byte goes to
and fro: whoever has it works, builds and measures; after each measurement the other side has it. The tree may be of
another revision, so nothing of this project is imported but what is found there.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WHOLE = {"figures": "_seconds_on_cuda", "training": "_run"}  # functions that time themselves


class Baton:
    """What the side that works has; the other waits for it, unless this one has ended."""

    def __init__(self, take: int, give: int) -> None:
        self._take, self._give = take, give

    def wait(self) -> None:
        """Return when it is ours: handed over, or because the other side is gone."""
        os.read(self._take, 1)

    def pass_on(self) -> None:
        """Let the other side work, and wait until it has."""
        try:
            os.write(self._give, b"x")
        except BrokenPipeError:
            return
        self.wait()

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, after which the other side has its turn."""

        def turn(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            self.pass_on()
            return answer

        return turn


def main(tree: str, take: str, give: str, clock: str, flags: Sequence[str]) -> int:
    """Run the benchmark of the tree."""
    sys.path[0] = tree  # not this file's folder
    baton, now = Baton(int(take), int(give)), CLOCKS[clock]

    def seconds(way: Callable[[], object]) -> float:
        start = now()
        way()
        return now() - start

    baton.wait()
    modules = {name: importlib.import_module(f"scripts.bench.{name}") for name in WHOLE}
    setattr(modules["figures"], "_seconds", baton.after(seconds))  # noqa: B010  (of whatever revision)
    for name, function in WHOLE.items():
        setattr(modules[name], function, baton.after(getattr(modules[name], function)))
    code: int = importlib.import_module("scripts.bench.__main__").main(flags)
    return code


if __name__ == "__main__":
    tree, take, give, clock, *flags = sys.argv[1:]
    sys.exit(main(tree, take, give, clock, flags))
