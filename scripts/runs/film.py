"""The process that renders for `scripts.record`: `python -m scripts.runs.film ORDER`, ORDER a JSON object."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from rich.progress import track

from agents import MTSAC, TrainedActor
from scripts.common import command
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs.folder import Run
from scripts.runs.protocol import require_spaces, spaces_of
from scripts.setup.build import make_scene

STEPS_PER_SECOND = 80  # of metaworld's simulated time
FRAMES_PER_SECOND = 40
GIF_COLORS = 64
SUCCESS, BORDER = (60, 200, 80), 4


class Scene:
    """One task, played by the agent and seen by a camera."""

    def __init__(self, run: Run, agent: MTSAC | TrainedActor, name: str, goal: int, size: int) -> None:
        self.name, self.agent, self.size = name, agent, size
        self.one_hot = np.eye(len(run.protocol.tasks), dtype=np.float32)[run.protocol.tasks.index(name)]
        self.task = make_scene(run.config, run.goals, name, goal, size)
        require_spaces(run.protocol, spaces_of(self.task))
        self.observation, _ = self.task.reset(seed=run.config.seed)
        for _ in range(goal if len(run.goals[name]) <= goal else 0):  # a task without goals: another start
            self.observation, _ = self.task.reset()
        self.solved_at: int | None = None
        self.steps, self.over = 0, False

    def step(self) -> None:
        """One environment step with the deterministic action; none after the end of the episode."""
        if self.over:
            return
        row = np.concatenate([self.observation, self.one_hot])[None]
        self.observation, _, terminated, truncated, info = self.task.step(self.agent.eval_action(row)[0])
        self.steps += 1
        self.over = terminated or truncated
        if info["success"] > 0 and self.solved_at is None:  # NaN: not known
            self.solved_at = self.steps

    def picture(self) -> np.ndarray:
        """(size, size, 3) with the task's name, and a green frame from the first success on."""
        found = self.task.render()
        if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
            raise UsageError(
                f"expected render() of {self.name} to return a picture (height, width, 3) of uint8; found "
                f"{type(found).__name__}; make the environments with render_mode='rgb_array'"
            )
        image = ImageOps.pad(Image.fromarray(found), (self.size, self.size))
        draw = ImageDraw.Draw(image)
        solved = self.solved_at is not None
        draw.rectangle((0, 0, image.width, 16), fill=SUCCESS if solved else (40, 40, 40))
        draw.text((BORDER + 2, 3), self.name, fill=(255, 255, 255))
        if solved:
            draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=SUCCESS, width=BORDER)
            draw.rectangle((0, image.height - 17, image.width, image.height), fill=SUCCESS)
            draw.text((BORDER + 2, image.height - 17), f"solved at step {self.solved_at}", fill=(255, 255, 255))
        return np.asarray(image)


def grid(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side in rows, at most five to a row; what is missing in the last row is black."""
    columns = min(5, math.ceil(math.sqrt(len(pictures))) if len(pictures) < 10 else 5)
    missing = -len(pictures) % columns
    pictures = pictures + [np.zeros_like(pictures[0])] * missing
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    return np.concatenate(rows, axis=0)


@contextlib.contextmanager
def video(path: Path, every: int) -> Iterator[Callable[[np.ndarray], object]]:
    """Yield what adds a frame, one for `every` environment steps; the file appears when the last one is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".gif":
            frames: list[np.ndarray] = []
            yield frames.append
            write_gif(partial, frames, milliseconds=1000 * every / STEPS_PER_SECOND)
        else:
            with imageio.get_writer(partial, fps=FRAMES_PER_SECOND, codec="libx264", quality=7) as writer:
                yield writer.append_data  # type: ignore[attr-defined]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_gif(path: Path, frames: list[np.ndarray], milliseconds: float) -> None:
    """One palette for all frames and no dithering: what does not move costs nothing, and the file is half as large."""
    sample = np.concatenate(frames[:: max(1, len(frames) // 16)])
    palette = Image.fromarray(sample).quantize(GIF_COLORS, dither=Image.Dither.NONE)
    first, *others = (Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


def main(order: dict[str, Any]) -> None:
    """Record what `scripts.record` has checked.

    :raises UsageError: if a task ends the program.
    """
    try:
        _film(order)
    except SystemExit as error:  # code that was written as a command may want to end it
        raise UsageError(f"a task ended the program: {error!r}") from error


def _film(order: dict[str, Any]) -> None:
    run = Run(order["run"])
    agent = run.agent(order["best"])
    out, groups = Path(order["out"]), [order["tasks"]]
    if order["each"]:
        groups = [[name] for name in order["tasks"]]
    for names in groups:
        scenes = [Scene(run, agent, name, order["goal"], order["size"]) for name in names]
        with video(out / f"{names[0]}.mp4" if order["each"] else out, order["every"]) as add:
            what = names[0] if order["each"] else "filming"
            for step in track(range(order["steps"]), description=what, console=Screen()):
                if step % order["every"] == 0:
                    add(grid([scene.picture() for scene in scenes]))
                for scene in scenes:
                    scene.step()
            end = grid([scene.picture() for scene in scenes])
            for _ in range(FRAMES_PER_SECOND):  # it stays for a second
                add(end)
        solved = [scene.name for scene in scenes if scene.solved_at is not None]
        print(f"solved: {', '.join(solved) or 'none'}", flush=True)


if __name__ == "__main__":
    command.run(lambda argv: main(json.loads(argv[0])), files=True)
