"""The protocol of a run: everything that must agree before two success rates may stand side by side."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from envs import find_benchmark
from envs.spaces import spelled
from scripts.common.text import plain
from scripts.setup.config import TrainConfig

if TYPE_CHECKING:  # brings torch
    from envs.vec_env import TaskVecEnv

# Runs that differ only in these are repetitions or longer runs of one experiment: their curves share an axis.
# Overlap is a lag of one transition in training; success is measured alike, and plain SAC has none.
_MAY_DIFFER = {"seed", "goal_set", "env_steps_per_task", "env_steps_total", "overlap"}
# A run that goes on may be made longer, and may find other software.
_MAY_CHANGE = {"env_steps_per_task", "env_steps_total", "metaworld", "mujoco", "gymnasium"}
# Fields that came later; left out where they say nothing, so that older ids stay the same.
_LATER: dict[str, Any] = {"collect_ahead": 0, "spaces": "", "gymnasium": ""}


@dataclass(frozen=True)
class Protocol:
    """How success was measured. Printed at the start, saved with every result, hashed into `id`."""

    benchmark: str
    tasks: tuple[str, ...]
    reward_version: str
    goal_set: str
    goals_per_task: int
    seed: int
    horizon: int
    train_horizon: int
    termination: str
    overlap: bool
    envs_per_task: int
    staggered_starts: bool
    episodes_during: int
    episodes_final: int
    deterministic: bool
    success: str
    env_steps_per_task: int
    env_steps_total: int
    metaworld: str
    mujoco: str
    collect_ahead: int = 0
    spaces: str = ""
    gymnasium: str = ""

    @property
    def id(self) -> str:
        """The first 12 digits of the sha256 of the fields as canonical JSON.

        Without the numbers of episodes: they say how exactly success is known, and not how it was measured.
        """
        return _digest({name: value for name, value in self.to_json().items() if not name.startswith("episodes_")})

    @property
    def earlier_id(self) -> str:
        """The id in run folders of before, which took in the numbers of episodes."""
        return _digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON values, without those that came later and say nothing."""
        values = asdict(self) | {"tasks": list(self.tasks)}
        return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Protocol:
        """The protocol that `to_json` wrote. Raises ValueError if a field is missing or unknown."""
        expected = {f.name for f in fields(cls)}
        values = {**_LATER, **values}
        if values.keys() != expected:
            raise ValueError(f"fields {sorted(expected ^ values.keys())} are missing or unknown")
        for f in fields(cls):
            if f.type in _KINDS and type(values[f.name]) is not _KINDS[f.type]:
                raise ValueError(f"{f.name}: expected {f.type}, found {values[f.name]!r}")
        return cls(**{**values, "tasks": tuple(values["tasks"])})

    def conflicts(self, other: Protocol) -> list[str]:
        """Names of the fields that forbid one axis for both."""
        return [name for name in self._differences(other) if name not in _MAY_DIFFER]

    def changed(self, now: Protocol) -> list[str]:
        """Names of the fields that must not change within a run, and did."""
        return [name for name in self._differences(now) if name not in _MAY_CHANGE]

    def _differences(self, other: Protocol) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def table(self) -> Table:
        """A two-column table of all fields."""
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


_KINDS: dict[Any, type] = {kind.__name__: kind for kind in (str, int, bool)}


def _digest(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def describe_env(config: TrainConfig, env: TaskVecEnv) -> Protocol:
    """The protocol of a run with this config in this environment."""
    (width,) = env.observation_space.shape or ()
    spaces = f"observations of {width - env.num_tasks} numbers, actions in {spelled(env.action_space)}"
    return describe(config, env.task_names, env.goals, spaces)


def describe(
    config: TrainConfig, task_names: tuple[str, ...], goals: Mapping[str, np.ndarray], spaces: str = ""
) -> Protocol:
    """The protocol of a run with this config on these tasks with these goals; spaces where no benchmark fixes them."""
    benchmark = find_benchmark(config.suite)
    versions = {name: version(name) for name in benchmark.versions}
    vector_steps = math.ceil(config.steps_per_task / config.envs_per_task)
    steps_per_task = vector_steps * config.envs_per_task
    return Protocol(
        benchmark=benchmark.title,
        tasks=task_names,
        reward_version=config.reward_version if benchmark.has_rewards else "",
        goal_set=hash_goals(goals),
        goals_per_task=config.goals,
        seed=config.seed,
        horizon=config.horizon,
        train_horizon=config.train_horizon or config.horizon,
        termination=benchmark.termination,
        overlap=config.overlap,
        envs_per_task=config.envs_per_task,
        staggered_starts=config.staggered_starts,
        episodes_during=config.eval_goals,
        episodes_final=config.final_goals,
        deterministic=True,
        success=benchmark.success,
        env_steps_per_task=steps_per_task,
        env_steps_total=steps_per_task * len(task_names),
        metaworld=versions.get("metaworld", ""),
        mujoco=versions.get("mujoco", ""),
        collect_ahead=config.collect_ahead,
        spaces=spaces if benchmark.is_code else "",
        gymnasium=versions.get("gymnasium", ""),
    )


def hash_goals(goals: Mapping[str, np.ndarray]) -> str:
    """The first 12 digits of a sha256 over names and goal vectors, as float64 in task order."""
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
