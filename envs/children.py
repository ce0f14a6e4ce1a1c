"""How processes of this package begin: where the user works, with all modules at hand, and with ours before them."""

import os
import sys
import sysconfig
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def python(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of ours; of the working folder, which may have one of its name, none."""
    return [sys.executable, "-P", "-m", module, *words]


def python_path() -> dict[str, str]:
    """Return the variable by which such a process finds modules: ours, then all that this one finds."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH"), *_own_paths()]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths)))}


def _own_paths() -> list[str]:
    """Where this process finds modules that are not installed, such as its working folder."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = tuple(os.path.join(sysconfig.get_path(name), "") for name in names)
    return [path for path in map(os.path.abspath, sys.path) if not os.path.join(path, "").startswith(installed)]
