"""Signals that ask to stop: which, who listens, and when."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

from envs.signals import STOP_SIGNALS

SWEEP = "MTRL_SWEEP"  # environment variable: the process id of the sweep that a training belongs to


def follow_sweep() -> None:
    """If a sweep began this process, stops it as SIGTERM does once the sweep is dead: nobody would know of it."""
    if sweep := os.environ.get(SWEEP):
        threading.Thread(target=_follow, args=(int(sweep),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def listening(
    press: Callable[[int, FrameType | None], None], signals: Collection[int] = STOP_SIGNALS
) -> Iterator[None]:
    """Inside, the signals that ask to stop, or those of them that are given, go to `press`.

    One that was ignored when the program began stays so: that is what nohup asks for. Only the main thread hears
    signals; in another one nothing changes, and its program decides what they do.
    """
    heard = signals if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in heard}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, press)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
