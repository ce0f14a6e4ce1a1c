"""Benchmarks by name, and what the rest of the project must know of each: a new one is one module and one row here.

A row is light. Its module is imported when tasks are built: who reads a run folder loads no simulator.
"""

import difflib
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from envs.columns import TaskSpec

TASK_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # it builds paths: it leads nowhere, and says nothing to a shell

MAX_HORIZON = 500  # metaworld refuses to step on

Goals = dict[str, np.ndarray]  # name -> (G, D), in the order of the tasks


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks are asked for. A benchmark passes over what it has no use for.

    :param suite: name of the benchmark, spelled as in BENCHMARKS, or module:function.
    :param tasks: names; None: all that the benchmark has.
    :param goals: how many per task, or name -> (G, D) vectors of a saved run.
    :param render_size: pixels, each way, of the pictures that the tasks are to give; None: none.
    """

    suite: str
    tasks: Sequence[str] | None
    seed: int
    goals: int | Mapping[str, np.ndarray]
    horizon: int
    reward_version: str = "v2"
    goal_order: str = "random"
    render_size: int | None = None


class TaskSet(NamedTuple):
    """Tasks that can be built anywhere, in order.

    :param goals: of each task, (G, D), to be saved with the run; (1, 0) where a task has none.
    :param spaces: that all share; None: they are class attributes of what the specs name.
    """

    specs: list[TaskSpec]
    goals: Goals
    spaces: tuple[gymnasium.Space, gymnasium.Space] | None = None


@dataclass(frozen=True)
class Benchmark:
    """What is particular to a benchmark.

    :param name: as it is spelled in commands and config.json.
    :param family: whose name stands in messages about limits, such as Meta-World.
    :param maker: "module:function" from `TaskOptions` to `TaskSet`.
    :param termination: how episodes end, as a sentence of the protocol.
    :param versions: distributions whose version is part of the protocol.
    :param success: when an episode counts as one, as a sentence of the protocol. Evaluations count any step that says
        so: a benchmark with another rule has tasks that say it then.
    :param max_horizon: steps of an episode at most; None: any number.
    :param own_list: name of the benchmark for a list of chosen tasks.
    :param num_tasks: how many tasks must be named; None: any number.
    :param has_rewards: whether there are reward versions to choose from.
    :param orders_goals: whether an episode is settled by its goal, and several environments can share the goals out.
    :param camera: what renders: MuJoCo, the environments themselves, or nothing, as there is nothing to see.
    :param groups: "module:NAME" of a dict from a group of tasks to their names, for reports; empty: no groups.
    :param is_code: whether its name names code of the user's.
    """

    name: str
    family: str
    maker: str
    termination: str
    versions: tuple[str, ...]
    success: str = "at any step of the episode"
    max_horizon: int | None = None
    own_list: str = ""
    num_tasks: int | None = None
    has_rewards: bool = True
    orders_goals: bool = True
    camera: Literal["mujoco", "own", "none"] = "mujoco"
    groups: str = ""
    is_code: bool = False

    def grouped(self, tasks: Sequence[str]) -> dict[str, list[int]]:
        """Group of tasks -> which of `tasks` are in it; none where all are in one, or the benchmark has no groups."""
        module, _, name = self.groups.partition(":")
        groups: Mapping[str, Sequence[str]] = getattr(importlib.import_module(module), name) if module else {}
        found = {group: [i for i, task in enumerate(tasks) if task in names] for group, names in groups.items()}
        found = {group: indices for group, indices in found.items() if indices}
        return found if len(found) > 1 else {}

    @property
    def title(self) -> str:
        """Its name in protocols."""
        return self.name if self.is_code else self.name.upper()

    def task_set(self, options: TaskOptions) -> TaskSet:
        """Choose the tasks and their goals; builds none that stays.

        :raises ValueError: for bad options, saying what was expected and found.
        """
        module, _, function = self.maker.partition(":")
        return getattr(importlib.import_module(module), function)(replace(options, suite=self.name))


_META_WORLD = Benchmark(
    "MT10",
    "Meta-World",
    "envs.meta_world.suites:task_set",
    termination="never; values bootstrap through the time limit",
    versions=("metaworld", "mujoco"),
    max_horizon=MAX_HORIZON,
    own_list="custom",
    groups="envs.meta_world.difficulty:DIFFICULTY",
)
_LISTED = Benchmark(
    "module:function",
    "a list of environments",
    "envs.gym_list:task_set",
    termination="where the environment says so, and no value is beyond; values bootstrap through a truncation, which "
    "comes at the horizon at the latest",
    versions=("gymnasium", "mujoco"),
    has_rewards=False,
    orders_goals=False,
    camera="own",
    is_code=True,
)

BENCHMARKS: dict[str, Benchmark] = {
    "MT1": replace(_META_WORLD, name="MT1", own_list="", num_tasks=1),
    "MT10": _META_WORLD,
    "MT25": replace(_META_WORLD, name="MT25"),
    "MT50": replace(_META_WORLD, name="MT50"),
    "custom": replace(_META_WORLD, name="custom", own_list=""),
    "push-goals": replace(
        _META_WORLD, name="push-goals", maker="envs.meta_world.push_goals:task_set", own_list="", groups=""
    ),
    "toy": replace(  # its protocols have always named Meta-World's versions, and keep their ids
        _META_WORLD,
        name="toy",
        maker="envs.toy:task_set",
        max_horizon=None,
        own_list="",
        orders_goals=False,
        camera="none",
        groups="",
    ),
    "module:function": _LISTED,
}


def find_benchmark(suite: str) -> Benchmark:
    """Return the benchmark of a name, whatever its case, or that of module:function, whose code is not run.

    :raises ValueError: for an unknown name.
    """
    if not isinstance(suite, str):
        raise ValueError(f"expected the name of a suite, or module:function; found {suite!r}")
    if ":" in suite:
        where, _, function = suite.rpartition(":")  # a run may go on from another folder
        return replace(_LISTED, name=f"{os.path.abspath(where)}:{function}" if where.endswith(".py") else suite)
    by_lower = {name.lower(): row for name, row in BENCHMARKS.items()}
    if suite.lower() not in by_lower:
        raise ValueError(
            f"expected a suite among {', '.join(BENCHMARKS)}; found {suite!r}{did_you_mean(suite, list(BENCHMARKS))}"
        )
    return by_lower[suite.lower()]


def checked_tasks(tasks: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return `tasks` as a tuple if each is among `known` and none is named twice.

    :raises ValueError: otherwise.
    """
    if isinstance(tasks, str):
        raise ValueError(f"expected a list of tasks, found {tasks!r}; give [{tasks!r}]")
    if not tasks:
        raise ValueError(f"expected at least one of {len(known)} tasks ({known[0]} ... {known[-1]}), found none")
    for name in tasks:
        if name not in known:
            raise ValueError(
                f"expected one of {len(known)} tasks ({known[0]} ... {known[-1]}), found {name!r}"
                + did_you_mean(name, known)
            )
    twice = sorted({name for name in tasks if list(tasks).count(name) > 1})
    if twice:
        raise ValueError(f"expected each task once, found {', '.join(twice)} more than once; name it once")
    return tuple(tasks)


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number as Python's own; numpy's are taken, too, and True and False are none.

    :raises ValueError: unless it is one, and lies between the bounds.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else least - 1
    if number < least or (most is not None and number > most):
        ends = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"expected {name} to be a whole number {ends}, found {value!r}")
    return number


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """End an error message with the nearest known words, if any is near."""
    near = difflib.get_close_matches(str(word).lower(), [name.lower() for name in known], n=3)
    spelled = [name for name in known if name.lower() in near]
    return f"; did you mean {' or '.join(spelled)}?" if spelled else ""
