"""Where and how films are rendered: in a process of its own, with EGL or, failing that, OSMesa, and a timeout."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Literal

from envs import find_benchmark
from envs.children import python, python_path
from scripts.common.usage import UsageError
from scripts.runs.folder import Run

BACK_ENDS = ("egl", "osmesa")
PACKAGES = (
    "libegl1 and libgl1 for EGL, or libosmesa6 for OSMesa (apt-get install libosmesa6; dnf install mesa-libOSMesa)"
)
PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"


def require_encoder() -> None:
    """Raise ImportError without the packages of the extra `video`."""
    try:
        import imageio.v2  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"recording needs packages that are not there ({error}): pip install -c constraints.txt -e '.[video]'"
        ) from error


def back_end_for(run: Run) -> str:
    """Return what MuJoCo renders with; empty where nothing is found and the environments may render without it."""
    try:
        return back_end()
    except UsageError:
        if find_benchmark(run.config.suite).camera == "mujoco":
            raise
        return ""


def back_end(timeout: float = 120.0) -> Literal["egl", "osmesa"]:
    """Return the first back end that renders here, each tried in a process of its own, as a driver may crash or hang.

    :raises UsageError: with the packages to install if none does.
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
    """Return the variables of a process that renders: a PYOPENGL_PLATFORM left over from elsewhere would stop it."""
    return {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}


def film(order: dict[str, object], gl: str, timeout: float) -> None:
    """Render in a process of its own.

    :param gl: what MuJoCo renders with; empty: whatever it finds.
    :raises UsageError: if that fails or hangs; then no file is left.
    """
    variables = _rendering_with(gl) if gl else {**os.environ}
    words = python("scripts.runs.film", json.dumps(order))
    try:
        done = subprocess.run(words, env=variables | python_path(), stderr=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"rendering with {gl or 'no OpenGL'} took longer than --timeout {timeout:g} s. Give it more."
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UsageError(
            f"rendering with {gl or 'no OpenGL'} failed: {last[0].removeprefix('error: ')}. Try another way to render: "
            "MUJOCO_GL=egl or osmesa."
        )
