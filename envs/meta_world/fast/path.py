"""Decide whether Meta-World's fast path is taken: only with the versions with which it was proven exact."""

import warnings
from functools import cache
from importlib.metadata import version

from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

# `python -m tests.envs.test_fast_meta_world` is the proof; widen these after it has passed.
PROVEN = {"metaworld": "3.1.1", "mujoco": "3.3.0", "numpy": "2."}  # beginnings of version numbers


def task_class(name: str) -> type[SawyerXYZEnv]:
    """Return the class of a task: a faster one, equal to the bit, or metaworld's own and a warning."""
    plain = ALL_V3_ENVIRONMENTS[name]
    if not _proven():
        return plain
    from envs.meta_world.fast.step import (
        fast_class,  # reaches into the proven versions: another one may not even import
    )

    return fast_class(plain)  # type: ignore[arg-type]  # a class is hashable


@cache  # and so warns once
def _proven() -> bool:
    found = {name: version(name) for name in PROVEN}
    if all(found[name].startswith(start) for name, start in PROVEN.items()):
        return True
    warnings.warn(
        f"expected {_told(PROVEN)} for the fast path of Meta-World, found {_told(found)}; "
        "using metaworld's own code, with the same numbers at less than half the speed",
        stacklevel=3,
    )
    return False


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
