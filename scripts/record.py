"""Film the policy of a run: one mp4 with all tasks side by side, or one per task; a green frame marks success.

python -m scripts.record runs/mt10-quick-pcgrad-seed0
python -m scripts.record runs/mt10-quick-pcgrad-seed0 --each --tasks reach-v3,push-v3

Rendering is no part of training: it happens in a process of its own, with EGL or, failing that, OSMesa, and a timeout.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from envs import find_benchmark
from scripts.common import command
from scripts.common.flags import Names
from scripts.common.usage import UsageError, check_output, choose, usage_errors
from scripts.runs import Run
from scripts.setup.trust import require_trust, suite_code

ROOT = Path(__file__).resolve().parents[1]
BACK_ENDS = ("egl", "osmesa")
PACKAGES = (
    "libegl1 and libgl1 for EGL, or libosmesa6 for OSMesa (apt-get install libosmesa6; dnf install mesa-libOSMesa)"
)
PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"


@dataclass(frozen=True)
class RecordConfig:
    """Film one episode of each task of a run, with the deterministic policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    out: Path | None = None
    """The .mp4, or with --each the folder of the .mp4s; by default in the folder of the run."""
    each: bool = False
    """One file per task instead of one grid."""
    tasks: Names = ()
    """Some of the run's tasks; empty: all."""
    goal: int = 0
    """Which of the run's goals; where tasks have none, which start."""
    best: bool = False
    """The agent of the best evaluation during training, not the newest."""
    size: int = 240
    """Pixels of a task's picture, each way; a multiple of 16."""
    every: int = 2
    """Environment steps per frame; at 40 frames a second, 2 is Meta-World's real time."""
    timeout: float = 1800.0
    """Seconds until rendering counts as hanging."""
    run_code: bool = False
    """Run the function that the run's environments come from; only where you trust it."""


def main(argv: Sequence[str]) -> int:
    """Films as `argv` says; returns the exit code."""
    request = tyro.cli(RecordConfig, prog="python -m scripts.record", args=argv)
    run = Run(request.run).verified()
    tasks = check(request, run)
    out = request.out or run.path / ("videos" if request.each else "video.mp4")
    check_output("--out", out / "x.mp4" if request.each and out.is_dir() else out)
    path = run.best if request.best else run.newest_checkpoint() / "agent.zip"
    if not path.is_file():
        raise UsageError(f"--best: expected {path}, which the first evaluation writes; found nothing.")
    order: dict[str, object] = {
        "run": str(run.path.resolve()),
        "agent": str(path.resolve()),
        "out": str(out.resolve()),
        "tasks": tasks,
    }
    order |= {"each": request.each, "goal": request.goal, "size": request.size, "every": request.every}
    film(order, back_end_for(run), request.timeout)
    print(f"wrote {out}")
    return 0


def check(request: RecordConfig, run: Run) -> list[str]:
    """The tasks to film. Raises UsageError for what cannot be filmed."""
    if find_benchmark(run.config.suite).camera == "none":
        raise UsageError(f"expected a run whose tasks render; those of {run.config.suite} have nothing to see.")
    require_trust(suite_code(run.config), request.run_code, "filming")
    tasks = [choose("task", name, run.protocol.tasks) for name in request.tasks] or list(run.protocol.tasks)
    if not 0 <= request.goal < run.config.goals:
        raise UsageError(f"--goal: expected 0 to {run.config.goals - 1}; found {request.goal}.")
    if request.size < 16 or request.size % 16 or request.every < 1 or not request.timeout > 0:
        raise UsageError("expected --size a multiple of 16, --every at least 1 and --timeout above 0.")
    if not request.each and request.out and request.out.suffix != ".mp4":
        raise UsageError(f"--out: expected a file that ends in .mp4; found {request.out}.")
    with usage_errors():
        require_encoder()
    return tasks


def require_encoder() -> None:
    """Raises ImportError without the packages of the extra `video`."""
    try:
        import imageio.v2  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"recording needs packages that are not there ({error}): pip install -e '.[video]'"
        ) from error


def back_end_for(run: Run) -> str:
    """What MuJoCo renders with; empty where nothing is found and the environments may render without it."""
    try:
        return back_end()
    except UsageError:
        if find_benchmark(run.config.suite).camera == "mujoco":
            raise
        return ""


def back_end(timeout: float = 120.0) -> Literal["egl", "osmesa"]:
    """The first back end that renders here, each tried in a process of its own, as a driver may crash or hang.

    Raises UsageError with the packages to install if none does.
    """
    asked = os.environ.get("MUJOCO_GL")
    for name in BACK_ENDS if asked not in BACK_ENDS else (asked,):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [sys.executable, "-c", PROBE],
                env=_rendering_with(name),
                capture_output=True,
                timeout=timeout,
            )
            if done.returncode == 0:
                return name  # type: ignore[return-value]
    tried = asked if asked in BACK_ENDS else " and ".join(BACK_ENDS)
    raise UsageError(f"expected a way to render without a screen; {tried} did not work. Install {PACKAGES}.")


def _rendering_with(name: str) -> dict[str, str]:
    """The environment of a process that renders: a PYOPENGL_PLATFORM left over from something else would stop it."""
    return {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}


def film(order: dict[str, object], gl: str, timeout: float) -> None:
    """Renders in a process of its own. Raises UsageError if that fails or hangs; then no file is left.

    :param gl: what MuJoCo renders with; empty: whatever it finds.
    """
    variables = _rendering_with(gl) if gl else {**os.environ}
    words = [sys.executable, "-m", "scripts.runs.film", json.dumps(order)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(words, env=variables | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"rendering with {gl or 'no OpenGL'} took longer than --timeout {timeout:g} s. Give it more."
        ) from error
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise UsageError(
            f"rendering with {gl or 'no OpenGL'} failed: {last[0].removeprefix('error: ')}. Try another way to render: "
            "MUJOCO_GL=egl or osmesa."
        )


if __name__ == "__main__":
    command.run(main, files=True)
