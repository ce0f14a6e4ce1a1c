"""What a sweep shows: a line per run with its state, node, steps, success and ETA, and one for all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from rich.live import Live

from scripts.common.screen import FittedTable, Screen
from scripts.common.text import plain
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.claim import holder
from scripts.runs.tables import mean_known
from scripts.sweeps.execution import described, stopped_by_signal
from scripts.sweeps.launchers import Started
from scripts.sweeps.plan import Plan

PLAIN_FIRST, PLAIN_EVERY = 5.0, 60.0  # seconds to the first line about what runs, and later between two, off a terminal


class Line:
    """One run: where it began, where it is, and how fast it goes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state: str = "waiting" if plan.is_open else plan.action
        self.node = ""  # that it trains on, or last did
        self.total = plan.job.config.steps_per_task
        self.steps, self.success = progress(plan.job.path) if self.state != "failed" else (0, "-")
        self._first: tuple[float, int] | None = None

    def look(self) -> None:
        """Read the run's files."""
        self.node = holder(self.plan.job.path)[1] or self.node
        found = progress(self.plan.job.path)
        if found[0] < self.steps:  # caught while a file was being written
            return
        self.steps, self.success = found
        if self._first is None and self.steps:
            self._first = (time.monotonic(), self.steps)

    @property
    def speed(self) -> float:
        """Steps per task and second since the first look; 0 if not known yet."""
        if self.state != "running" or self._first is None:
            return 0.0
        seconds, steps = time.monotonic() - self._first[0], self.steps - self._first[1]
        return steps / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> int:
        """Steps per task still to be made."""
        return max(0, self.total - self.steps) if self.state in ("waiting", "running") else 0

    def cells(self, nodes: bool) -> tuple[str, ...]:
        """Name, state, node if that is asked for, steps, success, ETA."""
        eta = duration(self.left / self.speed) if self.speed else "-"
        state = "queued" if nodes and self.state == "running" and not self.node else self.state
        node = (self.node or "-",) if nodes else ()
        return self.plan.job.name, state, *node, f"{self.steps:,}/{self.total:,}", self.success, eta


class Board:
    """The lines of all runs, live on a terminal; elsewhere a line when something changes, and one a minute.

    :param nodes: whether runs are on several machines, which are then named.
    """

    def __init__(self, plans: Sequence[Plan], console: Screen, nodes: bool = False) -> None:
        self.console, self.nodes = console, nodes
        self.lines = {plan.job.name: Line(plan) for plan in plans}
        self._live = Live(console=console, auto_refresh=False, transient=not console.is_terminal)
        self._looked, self._printed, self._pause = 0.0, time.monotonic(), PLAIN_FIRST

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Print a line above the others."""
        self.console.print(message)

    def update(self, running: Mapping[str, Started], codes: Mapping[str, int]) -> None:
        """Take over which runs go on and how the others ended."""
        changed = []
        for name, line in self.lines.items():
            state = "running" if name in running else self._ending(line, codes[name]) if name in codes else line.state
            if state == "running" and name not in running:
                state = "waiting"  # to go on
            if state != line.state:
                line.state = state
                line.look()
                changed.append(line)
        if time.monotonic() - self._looked > 2:
            self._looked = time.monotonic()
            for name in running:
                self.lines[name].look()
        if self.console.is_terminal:
            self._live.update(self.table(), refresh=True)
            return
        if time.monotonic() - self._printed > self._pause:
            self._printed, self._pause = time.monotonic(), min(2 * self._pause, PLAIN_EVERY)
            changed = [line for line in self.lines.values() if line in changed or line.state == "running"]
        for line in changed:
            self.console.print(self.plainly(line), soft_wrap=True)

    @staticmethod
    def _ending(line: Line, code: int) -> str:
        if code == 0:
            return "finished" if is_finished(line.plan.job.path) else f"failed ({described(code)}, unfinished)"
        if stopped_by_signal(code):
            return "stopped"
        return f"failed ({described(code)})"

    def table(self) -> FittedTable:
        """All lines, and the whole."""
        node = ("node",) if self.nodes else ()
        table = FittedTable("run", "state", *node, "steps per task", "success", "ETA")
        for column in table.columns[1 : 2 + len(node)]:
            column.justify = "left"
        for line in self.lines.values():
            table.add_row(*line.cells(self.nodes))
        done = sum(line.state == "finished" for line in self.lines.values())
        speed = sum(line.speed for line in self.lines.values())
        left = duration(sum(line.left for line in self.lines.values()) / speed) if speed else "-"
        table.add_section()
        table.add_row(f"{done} of {len(self.lines)} finished", *[""] * (len(table.columns) - 2), left, style="bold")
        return table

    def plainly(self, line: Line) -> str:
        """One line of text."""
        name, state, *node, steps, success, eta = line.cells(self.nodes)
        where = f" on {node[0]}" if node and line.node else ""
        return f"{name}: {state}{where}, {steps} steps per task, success {success}, ETA {eta}"

    def conclude(self) -> bool:
        """Say how it ended, the failed runs by name; return whether all are finished."""
        groups: dict[str, list[Line]] = {}
        for line in self.lines.values():
            groups.setdefault(line.state.split(" (")[0], []).append(line)
        counts = ", ".join(f"{len(lines)} {state}" for state, lines in groups.items())
        self.console.print(f"{len(self.lines)} runs: {counts}")
        for line in groups.get("failed", []):
            log = line.plan.job.log
            self.console.print(f"  {line.plan.job.name} {line.state}: {plain(last_line(log))} ({log})", soft_wrap=True)
        return set(groups) == {"finished"}


def progress(path: Path) -> tuple[int, str]:
    """Return steps per task that a run has logged, and its newest success; (0, "-") while there is nothing to read."""
    try:
        run = Run(path)
        steps = _last_step(run)
        if run.status == "finished":
            steps = run.config.steps_per_task
        if not run.evaluations.columns:
            return steps, "-"
        success = mean_known(np.array(list(run.success.values())))
        return steps, "-" if np.isnan(success) else f"{success:.2f}"
    except (UsageError, OSError, ValueError):  # not there yet, or caught while it is being written
        return 0, "-"


def is_finished(path: Path) -> bool:
    """Whether a run says so, whose process ended without an error: code of the user's may have ended it."""
    try:
        os.listdir(path)  # another node wrote there: a file system that all share looks anew
        return Run(path).status == "finished"
    except (UsageError, OSError):
        return False


def _last_step(run: Run) -> int:
    """Return the first cell of the last line of metrics.csv."""
    path = run.metrics.path
    if not run.metrics.columns:
        return 0
    cell = _end(path).rstrip().rpartition(b"\n")[2].partition(b",")[0]
    return run.step_of({run.metrics.columns[0]: cell}) if cell.isdigit() else 0


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return file.read()


def last_line(path: Path) -> str:
    """Return what a run said last; of an error that teaches, the error."""
    lines = [line for line in _end(path).decode(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1] if lines else "it printed nothing"


def duration(seconds: float) -> str:
    """As 1:02:03."""
    return str(timedelta(seconds=round(seconds)))
