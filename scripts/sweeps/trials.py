"""What a search shows: how far it is, with an ETA, and at its end what mattered and what was best."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from rich.live import Live

from scripts.common.command import EXIT_INCOMPLETE
from scripts.common.screen import FittedTable, Screen
from scripts.sweeps.board import PLAIN_EVERY, PLAIN_FIRST, duration, progress
from scripts.sweeps.execution import Stop
from scripts.sweeps.launchers import Started
from scripts.sweeps.study import Search, shown


class TrialsBoard:
    """One line: trials that are over, those that run, the best success, ETA; live on a terminal, else once a minute."""

    def __init__(self, search: Search, stop: Stop, console: Screen) -> None:
        self.search, self.stop, self.console = search, stop, console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._began, self._over = time.monotonic(), search.over
        self._looked, self._pause = time.monotonic(), PLAIN_FIRST

    def __enter__(self) -> TrialsBoard:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, running: Mapping[str, Started], codes: Mapping[str, int]) -> None:
        """Let the study follow its trials, and say now and then how far it is."""
        self.search.follow(running, codes, bool(self.stop.signal))
        now, live = time.monotonic(), self.console.is_terminal
        if now - self._looked > (2 if live else self._pause):
            self._looked, self._pause = now, min(2 * self._pause, PLAIN_EVERY)
            line = self.line(list(running))
            self._live.update(line, refresh=True) if live else self.console.print(line, soft_wrap=True)

    def line(self, running: list[str]) -> str:
        """How far the search is."""
        jobs = [self.search.jobs[name] for name in running]
        shares = [progress(job.path)[0] / job.config.steps_per_task for job in jobs]
        over, best = self.search.over, self.search.best
        done = over - self._over + sum(shares)
        left = self.search.trials - over - sum(shares)
        eta = duration((time.monotonic() - self._began) / done * left) if done else "-"
        found = f"{best.value:.2f} (trial {best.number})" if best else "-"
        percent = ", ".join(f"{name} {share:.0%}" for name, share in zip(running, shares, strict=True))
        return f"{over} of {self.search.trials} trials over; running: {percent or 'none'}; best {found}; ETA {eta}"


def importance_table(search: Search) -> FittedTable:
    """Return a row per setting: how much it mattered, and its best value."""
    best, importance = search.best, search.importance()
    table = FittedTable("setting", "importance", "best value")
    values = best.params if best else {}
    for name in sorted(search.distributions, key=lambda name: -importance.get(name, 0.0)):
        share = f"{importance[name]:.2f}" if name in importance else "-"
        table.add_row(name.replace("_", "-"), share, shown(values.get(name, "-")))
    return table


def conclude(search: Search, stop: Stop, console: Screen, winner: Path) -> int:
    """Say what came of it; return the exit code."""
    if search.over < search.trials:
        console.print(f"{search.over} of {search.trials} trials are over. The same command goes on with them.")
        return 128 + stop.signal if stop.signal else EXIT_INCOMPLETE
    if not (best := search.best):
        console.print(
            f"No trial is complete, so there is no winner. What they printed: {winner.parent / 'logs'}", soft_wrap=True
        )
        return EXIT_INCOMPLETE
    console.print(importance_table(search))
    console.print(f"best: success {best.value:.2f}, {search.make(best.number, best.params).path}", soft_wrap=True)
    console.print(f"wrote {winner}; python -m scripts.train {shlex.quote(str(winner))} trains with it", soft_wrap=True)
    return 0
