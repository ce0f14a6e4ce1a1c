"""What a training run shows while it runs, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from stable_baselines3.common.callbacks import BaseCallback

from agents import MTSAC
from scripts.common.screen import strong
from scripts.common.signals import listening


class StopRequested(KeyboardInterrupt):
    """A signal to stop while an evaluation ran: the evaluation is given up, the training is not lost."""


class StopSwitch(BaseCallback):
    """Ends training after the current step once a signal asked for it; Ctrl-C after that ends it at once.

    Any other second signal changes nothing: schedulers send them twice, and have SIGKILL for those in a hurry.
    An evaluation may take minutes, so it does not run to its end: inside `interruptible()` the first signal raises
    StopRequested.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.pressed = 0  # the number of the signal
        self._raise = False

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Take over the signals and give them back."""
        return listening(self._press)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let what runs inside be given up."""
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.pressed = number
        self.console.print(strong("Stopping", " after this step. Press Ctrl-C again to quit without saving."))
        if self._raise:
            raise StopRequested

    def _on_step(self) -> bool:
        return not self.pressed


class _TwoLines(Progress):
    """A progress bar with text below it, which has room on a narrow screen, too."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.below, style="dim")


class ProgressBar(BaseCallback):
    """Steps per task, ETA, success so far and where the time goes."""

    model: MTSAC

    def __init__(self, console: Console, steps_per_task: int, visible: bool = True) -> None:
        super().__init__()
        self.steps_per_task = steps_per_task
        self.bar = _TwoLines(
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps per task"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            speed_estimate_period=600,  # longer than an evaluation
            console=console,
            disable=not visible,
            expand=True,
        )

    def _on_training_start(self) -> None:
        done = self.model.steps_per_task
        self.row = self.bar.add_task("", total=self.steps_per_task, completed=done)
        self.bar.start()

    def _on_step(self) -> bool:
        step = self.model.steps_per_task
        if self.model.due(10) or step == self.steps_per_task:
            self.bar.update(self.row, completed=step)
        if self.model.due(100):  # reads the device
            self.bar.below = f"training success {recent_success(self.model)}; {split(self.model.seconds)}"
        return True

    def _on_training_end(self) -> None:
        self.bar.update(self.row, completed=self.model.steps_per_task)

    def close(self) -> None:
        """Take the bar off the screen, also after an error."""
        self.bar.stop()


def recent_success(agent: MTSAC) -> str:
    """Mean over tasks of the success of recent training episodes, or a dash before the first one."""
    success = agent.metrics().get("rollout/success")
    return "-" if success is None else f"{success:.2f}"


def split(seconds: dict[str, float]) -> str:
    """Shares of the time, e.g. `time: env 31%, act 2%, learn 60%, evaluate 7%`."""
    total = sum(seconds.values()) or 1.0
    return "time: " + ", ".join(f"{part} {value / total:.0%}" for part, value in seconds.items())
