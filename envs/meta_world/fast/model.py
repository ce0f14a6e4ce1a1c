"""Compile a task's XML once for all its environments that live at the same time: a copy takes a tenth of the time.

A model has about 21 MB, nearly all of it meshes and textures, so none is kept aside: what is copied is the model of an
environment. metaworld may have written there since (positions that the goal gives), so the small arrays are remembered
as they were compiled, 0.1 MB, and put back.
"""

import copy
from weakref import WeakKeyDictionary

import mujoco
import numpy as np

_SMALL = 20_000  # bytes; above lie meshes, their trees and textures, which nobody writes

_compiled: WeakKeyDictionary[mujoco.MjModel, tuple[str, dict[str, np.ndarray]]] = WeakKeyDictionary()


def load_model(path: str) -> mujoco.MjModel:
    """Return a model of its own, equal to `mujoco.MjModel.from_xml_path(path)`."""
    for living, (known, arrays) in list(_compiled.items()):
        if known == path:
            model = copy.copy(living)
            for name, values in arrays.items():
                getattr(model, name)[...] = values
            return model
    model = mujoco.MjModel.from_xml_path(path)
    fields = ((name, getattr(model, name)) for name in dir(model) if not name.startswith("_"))
    small = {
        name: field.copy() for name, field in fields if isinstance(field, np.ndarray) and 0 < field.nbytes <= _SMALL
    }
    _compiled[model] = path, small
    return model
