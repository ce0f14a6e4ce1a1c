"""MuJoCo, imported whatever MUJOCO_GL and PYOPENGL_PLATFORM say: training and evaluation render nothing.

MuJoCo sets up rendering as it is imported, and its import fails where the two variables contradict each other or name
what this machine has not. Modules that need MuJoCo or metaworld import this one first.
"""

import os

try:
    import mujoco
except Exception:  # of many kinds: ImportError, RuntimeError, or what a missing OpenGL library raises
    asked = os.environ.pop("MUJOCO_GL", None)
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco  # noqa: F401

    del os.environ["MUJOCO_GL"]
    os.environ |= {} if asked is None else {"MUJOCO_GL": asked}
