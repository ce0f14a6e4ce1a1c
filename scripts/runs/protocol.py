"""The protocol of a run: everything that must agree before two success rates may stand side by side."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import numpy as np
from rich import box
from rich.table import Table

from agents.fields import build, taken_by
from envs import find_benchmark
from envs.spaces import spelled
from scripts.common.text import plain
from scripts.common.usage import UsageError
from scripts.setup.config import TrainConfig

if TYPE_CHECKING:  # brings torch
    from envs.vec_env import TaskVecEnv


@dataclass(frozen=True)
class Part:
    """What a field of the protocol decides. Without one, two runs must agree in the field.

    :param shares_axis: runs that differ in it are repetitions or longer runs of one experiment: their curves share an
        axis.
    :param may_change: a run that goes on may have another value, as it is made longer, or finds other software.
    :param in_id: whether it is part of the id.
    :param added: newer than the first run folders: left out where it has its default, so that older ids stay the same.
    """

    shares_axis: bool = False
    may_change: bool = False
    in_id: bool = True
    added: bool = False


_LENGTH, _SOFTWARE = Part(shares_axis=True, may_change=True), Part(may_change=True)
_OWN_VERSION = ("metaworld", "mujoco", "gymnasium")  # libraries with a field each
_EPISODES = Part(in_id=False)  # they say how exactly success is known, not how it was measured


@dataclass(frozen=True)
class Protocol:
    """How success was measured. Printed at the start, saved with every result, hashed into `id`."""

    benchmark: str
    tasks: tuple[str, ...]
    reward_version: str
    goal_set: Annotated[str, Part(shares_axis=True)]
    goals_per_task: int
    seed: Annotated[int, Part(shares_axis=True)]
    horizon: int
    train_horizon: int
    termination: str
    overlap: Annotated[bool, Part(shares_axis=True)]  # a lag of one transition in training; plain SAC has none
    envs_per_task: Annotated[int, Part(shares_axis=True)]  # steps count those of all; plain SAC has one
    staggered_starts: bool
    episodes_during: Annotated[int, _EPISODES]
    episodes_final: Annotated[int, _EPISODES]
    deterministic: bool
    success: str
    env_steps_per_task: Annotated[int, _LENGTH]
    env_steps_total: Annotated[int, _LENGTH]
    metaworld: Annotated[str, _SOFTWARE]
    mujoco: Annotated[str, _SOFTWARE]
    collect_ahead: Annotated[int, Part(may_change=True, added=True)] = 0  # until version 0.2, and none goes on
    spaces: Annotated[str, Part(added=True)] = ""
    gymnasium: Annotated[str, Part(may_change=True, added=True)] = ""
    libraries: Annotated[str, Part(may_change=True, added=True)] = ""  # of a benchmark, with no field of their own

    @property
    def id(self) -> str:
        """The first 12 digits of the sha256 of the fields as canonical JSON, without the numbers of episodes."""
        return _digest({name: value for name, value in self.to_json().items() if _parts()[name].in_id})

    @property
    def earlier_id(self) -> str:
        """The id in run folders of before, which took in the numbers of episodes."""
        return _digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON values, without those that were added later and have their default."""
        values, defaults = asdict(self) | {"tasks": list(self.tasks)}, _defaults()
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Protocol:
        """Return the protocol that `to_json` wrote.

        :raises ValueError: if a field is missing or unknown.
        """
        values = _defaults() | {**values}
        if values.keys() != _parts().keys():
            raise ValueError(f"fields {sorted(_parts().keys() ^ values.keys())} are missing or unknown")
        protocol: Protocol = build(cls, values)
        return protocol

    @property
    def versions(self) -> str:
        """What the benchmark is made of, with versions."""
        own = (f"{name} {number}" for name in _OWN_VERSION if (number := getattr(self, name)))
        return ", ".join([*own, *filter(None, [self.libraries])])

    def conflicts(self, other: Protocol) -> list[str]:
        """Names of the fields that forbid one axis for both."""
        return [name for name in self._differences(other) if not _parts()[name].shares_axis]

    def changed(self, now: Protocol) -> list[str]:
        """Names of the fields that must not change within a run, and did."""
        return [name for name in self._differences(now) if not _parts()[name].may_change]

    def _differences(self, other: Protocol) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def table(self) -> Table:
        """Return a two-column table of all fields."""
        table = Table(
            box=box.SIMPLE_HEAD,
            show_header=False,
            title=f"Protocol {self.id}",
            title_justify="left",
            title_style="bold",
        )
        for name, value in self.to_json().items():
            if value != "":
                table.add_row(name.replace("_", " "), _readable(value))
        return table


@cache
def _parts() -> dict[str, Part]:
    hints = get_type_hints(Protocol, include_extras=True)
    return {name: next(iter(getattr(hint, "__metadata__", ())), Part()) for name, hint in hints.items()}


def _defaults() -> dict[str, Any]:
    """Return the defaults of the fields that were added later."""
    return {f.name: f.default for f in fields(Protocol) if _parts()[f.name].added}


def _digest(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def describe_env(config: TrainConfig, env: TaskVecEnv) -> Protocol:
    """Return the protocol of a run with this config in this environment."""
    return describe(config, env.task_names, env.goals, spaces_of(env, env.num_tasks))


def spaces_of(env: Any, appended: int = 0) -> str:
    """Return the spaces of an environment as they stand in a protocol, without so many numbers that were appended."""
    (width,) = env.observation_space.shape
    return f"observations of {width - appended} numbers, actions in {spelled(env.action_space)}"


def require_spaces(protocol: Protocol, found: str) -> None:
    """Raise UsageError unless the environments of now have the spaces that the protocol names, if it names any."""
    if protocol.spaces not in ("", found):
        raise UsageError(
            f"expected the environments that this run was trained in, with {protocol.spaces}; found {found}. Put "
            f"{protocol.benchmark} back as it was, or train anew."
        )


def describe(
    config: TrainConfig, task_names: tuple[str, ...], goals: Mapping[str, np.ndarray], spaces: str = ""
) -> Protocol:
    """Return the protocol of a run with this config, tasks and goals; spaces where no benchmark fixes them."""
    benchmark = find_benchmark(config.suite)
    versions = {name: version(name) for name in benchmark.versions}
    others = ", ".join(f"{name} {number}" for name, number in versions.items() if name not in _OWN_VERSION)
    steps_per_task = math.ceil(config.steps_per_task / config.envs_per_task) * config.envs_per_task
    settings = taken_by(Protocol, vars(config))  # those that the two call alike
    return Protocol(
        **settings
        | {
            "benchmark": benchmark.title,
            "tasks": task_names,
            "reward_version": config.reward_version if benchmark.has_rewards else "",
            "goal_set": hash_goals(goals),
            "goals_per_task": config.goals,
            "train_horizon": config.train_horizon or config.horizon,
            "termination": benchmark.termination,
            "episodes_during": config.eval_goals,
            "episodes_final": config.final_goals,
            "deterministic": True,
            "success": benchmark.success,
            "env_steps_per_task": steps_per_task,
            "env_steps_total": steps_per_task * len(task_names),
            "spaces": spaces if benchmark.is_code else "",
            "metaworld": "",
            "mujoco": "",
            "libraries": others,
        }
        | {name: number for name, number in versions.items() if name in _OWN_VERSION}
    )


def hash_goals(goals: Mapping[str, np.ndarray]) -> str:
    """Return the first 12 digits of a sha256 over names and goal vectors, as float64 in task order."""
    digest = hashlib.sha256()
    for name, vectors in goals.items():
        digest.update(name.encode() + np.ascontiguousarray(vectors, dtype="<f8").tobytes())
    return digest.hexdigest()[:12]


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else plain(value)
