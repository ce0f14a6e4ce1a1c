"""The process that renders for `scripts.record`: `python -m scripts.runs.film ORDER`, ORDER a JSON object."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import mujoco
import numpy as np
from PIL import Image, ImageDraw
from rich.progress import track

from agents import MTSAC
from envs.meta_world.task import MetaWorldTask
from scripts.common import command
from scripts.common.screen import Screen
from scripts.runs.folder import Run

CAMERA = "corner2"
FRAMES_PER_SECOND = 40  # a step of metaworld simulates 1/80 s
SUCCESS, BORDER = (60, 200, 80), 4


class Scene:
    """One task, played by the agent and seen by a camera."""

    def __init__(self, run: Run, agent: MTSAC, name: str, goal: int, size: int) -> None:
        config, self.name, self.agent = run.config, name, agent
        self.one_hot = np.eye(len(run.protocol.tasks), dtype=np.float32)[run.protocol.tasks.index(name)]
        goals = run.goals[name][goal : goal + 1]
        self.task = MetaWorldTask(name, goals, config.reward_version, config.horizon, "sequential")
        self.observation, _ = self.task.reset(seed=config.seed)
        self.renderer = mujoco.Renderer(self.task._env.model, size, size)
        self.solved_at: int | None = None
        self.steps = 0

    def step(self) -> None:
        """One environment step with the deterministic action."""
        row = np.concatenate([self.observation, self.one_hot])[None]
        self.observation, _, _, _, info = self.task.step(self.agent.eval_action(row)[0])
        self.steps += 1
        if info["success"] and self.solved_at is None:
            self.solved_at = self.steps

    def picture(self) -> np.ndarray:
        """(size, size, 3) with the task's name, and a green frame from the first success on."""
        self.renderer.update_scene(self.task._env.data, camera=CAMERA)
        # this camera of metaworld's hangs upside down
        image = Image.fromarray(np.ascontiguousarray(self.renderer.render()[::-1, ::-1]))
        draw = ImageDraw.Draw(image)
        solved = self.solved_at is not None
        text = f"{self.name}  solved at {self.solved_at}" if solved else self.name
        draw.rectangle((0, 0, image.width, 16), fill=SUCCESS if solved else (40, 40, 40))
        draw.text((BORDER + 2, 3), text, fill=(255, 255, 255))
        if solved:
            draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=SUCCESS, width=BORDER)
        return np.asarray(image)


def grid(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side in rows, at most five to a row; what is missing in the last row is black."""
    columns = min(5, math.ceil(math.sqrt(len(pictures))) if len(pictures) < 10 else 5)
    missing = -len(pictures) % columns
    pictures = pictures + [np.zeros_like(pictures[0])] * missing
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    return np.concatenate(rows, axis=0)


@contextlib.contextmanager
def video(path: Path) -> Iterator[Any]:
    """A writer of frames; the file appears when the last one is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    try:
        with imageio.get_writer(partial, fps=FRAMES_PER_SECOND, codec="libx264", quality=7) as writer:
            yield writer
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(order: dict[str, Any]) -> None:
    """Films what `scripts.record` has checked."""
    run = Run(order["run"])
    agent = MTSAC.load(order["agent"], device="cpu", aggregator="mean", critic_aggregator="mean")
    out, groups = Path(order["out"]), [order["tasks"]]
    if order["each"]:
        groups = [[name] for name in order["tasks"]]
    for names in groups:
        scenes = [Scene(run, agent, name, order["goal"], order["size"]) for name in names]
        with video(out / f"{names[0]}.mp4" if order["each"] else out) as writer:
            what = names[0] if order["each"] else "filming"
            for step in track(range(run.config.horizon), description=what, console=Screen()):
                if step % order["every"] == 0:
                    writer.append_data(grid([scene.picture() for scene in scenes]))
                for scene in scenes:
                    scene.step()
            for _ in range(FRAMES_PER_SECOND):  # the end stays for a second
                writer.append_data(grid([scene.picture() for scene in scenes]))
        solved = [scene.name for scene in scenes if scene.solved_at is not None]
        print(f"solved: {', '.join(solved) or 'none'}", flush=True)


if __name__ == "__main__":
    command.run(lambda argv: main(json.loads(argv[0])), files=True)
