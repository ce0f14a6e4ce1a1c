"""The software and the machine that a run is made with."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_SOFTWARE = ("mtrl-surgery", "torch", "stable-baselines3", "gymnasium", "metaworld", "mujoco", "numpy")


def versions() -> dict[str, Any]:
    """Versions of the packages, the commit of this code, and the machine."""
    software = {name: version(name) for name in _SOFTWARE} | {"revision": _revision()}
    return software | {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}


def changes(before: Mapping[str, Any]) -> str:
    """Say what differs between the software of `before`, as `versions` gave it, and that of now; empty if nothing."""
    now = versions()
    names = [name for name in (*_SOFTWARE, "revision") if name in before and before[name] != now[name]]
    return ", ".join(f"{name} {before[name] or 'unknown'} -> {now[name] or 'unknown'}" for name in names)


@functools.cache
def _revision() -> str:
    """Return the commit of this code, and a digest of what was changed since; empty where there is no git."""
    if not (_ROOT / ".git").exists():
        return ""
    commands = (("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"), ("diff", "--no-ext-diff", "HEAD"))
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, check=True).stdout
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    found = commit.decode().strip()
    return f"{found}-{hashlib.sha256(changes).hexdigest()[:12]}" if changes else found
