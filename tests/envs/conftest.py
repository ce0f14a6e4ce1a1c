"""A model is compiled once and copied: compiling takes most of the time in which a Meta-World task is built."""

import copy
from functools import lru_cache

import pytest

from envs.meta_world.simulator import mujoco

compiled = lru_cache(64)(mujoco.MjModel.from_xml_path)


@pytest.fixture(autouse=True, scope="module")
def models_are_compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujoco.MjModel, "from_xml_path", lambda path: copy.copy(compiled(path)))
        yield
