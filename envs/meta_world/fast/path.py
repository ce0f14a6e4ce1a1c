"""Decide whether a task takes Meta-World's fast path: only where that was proven exact, or has just been seen to be."""

import warnings
from functools import cache
from importlib.metadata import version

from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

# `python -m tests.envs.test_fast_meta_world` is the proof; widen these after it has passed. On other versions each
# task is looked at before it is used (`envs.meta_world.fast.proof`).
PROVEN = {"metaworld": "3.1.1", "mujoco": "3.3.0", "numpy": "2."}  # beginnings of version numbers
_warned: set[str] = set()  # the first task that differed


def task_class(name: str) -> type[SawyerXYZEnv]:
    """Return the class of a task: a faster one, equal to the bit, or metaworld's own and a warning."""
    plain = ALL_V3_ENVIRONMENTS[name]
    if not _is_exact(name):
        return plain
    from envs.meta_world.fast.step import (
        fast_class,  # reaches into the proven versions: another one may not even import
    )

    return fast_class(plain)  # type: ignore[arg-type]  # a class is hashable


@cache
def _is_exact(name: str) -> bool:
    found = {package: version(package) for package in PROVEN}
    if all(found[package].startswith(start) for package, start in PROVEN.items()):
        return True
    from envs.meta_world.fast import proof  # here, as it is rarely needed

    different = proof.difference(name, found)
    if different and not _warned:
        _warned.add(name)
        warnings.warn(
            f"expected {_told(PROVEN)} for the fast path of Meta-World, found {_told(found)}, with which it is not "
            f"exact ({name}: {different}); using metaworld's own code, with the same numbers at less than half the "
            "speed",
            stacklevel=3,
        )
    return not different


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
