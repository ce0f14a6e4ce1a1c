"""Run metaworld's own code with other helpers: its code objects, bound to globals in which a few names are replaced.

Nothing of metaworld is copied or patched; its classes stay as they are beside the new ones.
"""

import types
from collections.abc import Mapping
from typing import Any


def rebind(function: Any, replacements: Mapping[str, Any]) -> types.FunctionType:
    """Return the same code with `replacements` among its globals; functions in its closure (decorators) likewise.

    `super()` works on: the class that it starts from lies in the closure, too, and is kept.
    """
    cells = tuple(
        types.CellType(rebind(cell.cell_contents, replacements))
        if isinstance(cell.cell_contents, types.FunctionType)
        else cell
        for cell in function.__closure__ or ()
    )
    known = {name: new for name, new in replacements.items() if name in function.__globals__}
    bound = types.FunctionType(
        function.__code__.replace(), {**function.__globals__, **known}, function.__name__, function.__defaults__, cells
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    bound.__doc__ = function.__doc__
    return bound


def rebound_methods(cls: type, replacements: Mapping[str, Any]) -> dict[str, Any]:
    """Return the methods, static methods and properties that a class itself defines, rebound; no dunder methods."""
    found: dict[str, Any] = {}
    for name, member in vars(cls).items():
        if name.startswith("__"):
            continue
        if isinstance(member, types.FunctionType):
            found[name] = rebind(member, replacements)
        elif isinstance(member, staticmethod):
            found[name] = staticmethod(rebind(member.__func__, replacements))
        elif isinstance(member, property) and isinstance(member.fget, types.FunctionType):
            found[name] = property(rebind(member.fget, replacements))
    return found
