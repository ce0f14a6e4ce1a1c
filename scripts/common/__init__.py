"""What every command needs: errors that end in one line, the screen, flags."""

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for _name in ("agents", "envs", "mtrl"):  # so may a folder be called where a command is typed; it comes first
    _found = find_spec(_name)
    _place = Path(_found.origin).resolve() if _found and _found.origin else None
    if _place is None or not _place.is_relative_to(_ROOT):
        raise ImportError(
            f"expected the package {_name!r} in {_ROOT}; found {_place or 'a folder that is no package'}. Run the "
            "command from another folder, or rename the one that is in the way."
        )
