"""The commands: `python -m scripts.NAME`. Thin: they parse, compose and call."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
for _name in ("agents", "envs", "mtrl"):  # so may a folder be called where a command is typed, and it comes first
    _found = find_spec(_name)
    _place = Path(_found.origin).resolve() if _found and _found.origin else None
    if _place is None or not _place.is_relative_to(_ROOT):
        raise ImportError(
            f"expected the package {_name!r} in {_ROOT}; found {_place or 'a folder that is no package'}. Run the "
            "command from another folder, or rename the one that is in the way."
        )

try:
    tempfile.gettempdir()
except FileNotFoundError:  # nowhere to write, as in a container that is read-only: its shared memory may be left
    if os.access("/dev/shm", os.W_OK):
        os.environ["TMPDIR"] = "/dev/shm"  # for matplotlib, which is not imported without one, and for workers
