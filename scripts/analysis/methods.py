"""Many runs: found by folder or pattern, held to one protocol, grouped into methods with a seed each."""

from __future__ import annotations

import glob
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from agents.algorithms import ALGORITHMS
from agents.fields import names_of
from mtrl import AGGREGATORS
from scripts.common.text import plain
from scripts.common.usage import UsageError, choose
from scripts.runs import Run
from scripts.runs.files import as_usage_error
from scripts.setup.config import TrainConfig

# What the protocol holds, what a machine or a seed decides, and how often a run looks at itself, are no part of it.
_OF_A_METHOD = names_of(TrainConfig, "method")
# Named in every label, so not among the settings in which runs differ.
_NAMED = {"preset", "aggregator", "actor_aggregator", "critic_aggregator", "multi_head"}


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone."""

    label: str
    aggregator: str  # whatever the algorithm, or `independent`
    runs: tuple[Run, ...]  # by seed

    @property
    def seeds(self) -> list[int]:
        """Seeds of its runs, in their order."""
        return [run.config.seed for run in self.runs]

    @property
    def failed(self) -> list[int]:
        """Seeds whose training broke down."""
        return [run.config.seed for run in self.runs if run.status == "failed"]

    @property
    def timed(self) -> tuple[Run, ...]:
        """Runs whose hours count: those that did not break down, where the clock stands still; all, where each did."""
        return tuple(run for run in self.runs if run.status != "failed") or self.runs

    @cached_property
    def curves(self) -> tuple[np.ndarray, Float[np.ndarray, "seeds tasks steps"]]:
        """Env steps per task at which all seeds were evaluated, and the success there.

        A seed that broke down has success 0 from there on: it is counted, not left out.

        :raises UsageError: if a run holds no evaluation, or the runs have no step in common.
        """
        found = [_evaluations(run) for run in self.runs]
        whole = [set(curve) for run, curve in zip(self.runs, found, strict=True) if run.status != "failed"]
        end = self.runs[0].config.steps_per_task  # of a method that always broke down: nothing is left there
        common = sorted(set.intersection(*whole) if whole else {end}.union(*found))
        # what it did before it broke down is not known where it was not evaluated, and is not 0
        steps = [step for step in common if all(step in curve or step > max(curve, default=-1) for curve in found)]
        if not steps:
            raise UsageError(
                f"{self.label}: expected evaluations at some step in common; the runs "
                f"{', '.join(str(run.path) for run in self.runs)} have none. Train them with one --eval-every."
            )
        nothing = np.zeros(len(self.runs[0].protocol.tasks))
        return np.array(steps), np.stack([np.stack([c.get(s, nothing) for s in steps], axis=1) for c in found])


def find_runs(patterns: Sequence[str | Path], evaluated: bool = False) -> list[Run]:
    """Find the runs that the words of a command name: run folders, folders of runs, and patterns like `runs/*seed0`.

    Left out, with a warning, are trials, unless there is nothing else, and damaged runs of a folder or pattern that
    holds whole ones, too.

    :param evaluated: leave those of a folder or pattern out, too, that were not evaluated yet, if it holds others.
    :raises UsageError: if a word names no run, or a damaged one.
    """
    if not patterns:
        raise UsageError("expected at least one run folder, found none. Name runs, or a folder of runs.")
    paths = dict.fromkeys(path.resolve() for word in patterns for path in _folders(str(word)))
    named, here = {Path(word).resolve() for word in patterns}, Path.cwd()
    runs, damaged = [], []
    for path in paths:
        try:
            runs.append(_whole(path.relative_to(here) if path.is_relative_to(here) else path))
        except UsageError as error:
            if path in named:
                raise
            damaged.append(error)
    if damaged and not runs:
        raise damaged[0]
    for found in damaged:
        warnings.warn(f"left out: {plain(found)}", stacklevel=2)
    waiting = [run for run in runs if evaluated and run.path.resolve() not in named and not _shown(run)]
    if waiting and len(waiting) < len(runs):
        runs = [run for run in runs if run not in waiting]
        names = ", ".join(str(run.path) for run in waiting)
        warnings.warn(f"left out: {names}; not evaluated yet", stacklevel=2)
    if trials := [run for run in runs if run.config.trial]:
        names = ", ".join(str(run.path) for run in trials)
        runs = [run for run in runs if not run.config.trial] or runs
        done = "shown" if runs == trials else "left out"
        warnings.warn(f"{done}: {names}; trials, made with STEPS set, and no results", stacklevel=2)
    return runs


def _whole(path: Path) -> Run:
    run = Run(path).verified()
    _ = run.status
    if len(run.evaluations):
        run.success_curves()
    return run


def _shown(run: Run) -> bool:
    """Whether there is anything to show of a run: what broke down counts, as 0."""
    return len(run.evaluations) > 0 or run.status == "failed"


def _folders(word: str) -> Iterable[Path]:
    matches = [Path(word)] if Path(word).exists() else sorted(map(Path, glob.glob(word)))
    runs = [path for match in matches for path in (match, *sorted(match.glob("*"))) if (path / "config.json").is_file()]
    return runs or matches or [Path(word)]  # what is no run says so when it is opened


def require_one_protocol(runs: Sequence[Run], advice: str, equal_steps: bool = False) -> None:
    """Raise UsageError, with the fields that differ, unless all runs may share an axis."""
    for run in runs[1:]:
        fields = runs[0].protocol.conflicts(run.protocol)
        if equal_steps and runs[0].protocol.env_steps_per_task != run.protocol.env_steps_per_task:
            fields.append("env_steps_per_task")
        if fields:
            found = ", ".join(f"{n} ({_value(runs[0], n)} and {_value(run, n)})" for n in fields)
            raise UsageError(
                f"expected runs of one protocol; {runs[0].path} and {run.path} differ in {found}. {advice}"
            )


def _value(run: Run, name: str) -> str:
    value = getattr(run.protocol, name)
    return f"{len(value)} tasks" if name == "tasks" else str(value)


def hours_at(run: Run, steps: np.ndarray, evaluations: bool = False) -> np.ndarray:
    """Hours of training after each of the steps (N,), from the times in metrics.csv, straight in between.

    :param evaluations: count the time for them, too.
    :raises UsageError: if there are no times.
    """
    with as_usage_error(run.metrics.path):
        parts = [name for name in run.metrics.columns if name.startswith("time/seconds_")]
        parts = [name for name in parts if evaluations or name != "time/seconds_evaluate"]
        rows = [row for row in run.metrics.read() if row.get("time/env_steps_per_task")]
        known = [float(row["time/env_steps_per_task"]) for row in rows]
        seconds = [sum(float(row[name] or 0) for name in parts) for row in rows]
    if not known or not parts:
        raise UsageError(
            f"expected times in {run.metrics.path}; found none. Keep metrics.csv with the run to draw them."
        )
    return np.interp(steps, [0, *known], [0, *seconds]) / 3600


def relabelled(methods: Sequence[Method], words: Sequence[str]) -> list[Method]:
    """Return the methods under other labels.

    :param words: LABEL=NAME each; a label may have "=" in it, as in `pcgrad, gamma=0.98`.
    :raises UsageError: for other words, and for labels that no method has.
    """
    names = {method.label: method.label for method in methods}
    for word in words:
        meant = max((label for label in names if word.startswith(f"{label}=")), key=len, default=word.partition("=")[0])
        label, name = meant, word.removeprefix(meant).removeprefix("=")
        if not name.strip():
            raise UsageError(f"--labels {word}: expected LABEL=NAME, a label of the figure and what to write instead.")
        names[choose("label", label, names)] = name
    return [replace(method, label=names[method.label]) for method in methods]


def group(runs: Sequence[Run]) -> list[Method]:
    """Return the methods among the runs, the mean first.

    :raises UsageError: if a method has a seed twice.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        groups.setdefault(json.dumps(settings(run.config), sort_keys=True), []).append(run)
    labels = [_label(members[0].config, [run.config for run in runs]) for members in groups.values()]
    order = [*AGGREGATORS, *ALGORITHMS]
    named = sorted(
        zip(labels, groups.values(), strict=True),
        key=lambda pair: (order.index(a) if (a := _aggregator(pair[1][0].config)) in order else len(order), pair[0]),
    )
    for label, members in named:
        _require_each_seed_once(label, members)
    return [Method(label, _aggregator(members[0].config), tuple(members)) for label, members in named]


def _aggregator(config: TrainConfig) -> str:
    return config.method.removeprefix(f"{config.algorithm}-")


def _require_each_seed_once(label: str, members: Sequence[Run]) -> None:
    for one, other in pairwise(members):
        if one.config.seed == other.config.seed:
            raise UsageError(
                f"{label}: expected every seed once; {one.path} and {other.path} both have seed {one.config.seed} and "
                "the same settings. Name one of them."
            )


def settings(config: TrainConfig) -> dict[str, Any]:
    """All that makes the method, by name; options of aggregators as `aggregator.c`."""
    values = {name: value for name, value in config.to_json().items() if name in _OF_A_METHOD}
    for prefix in ("aggregator", "actor_aggregator", "critic_aggregator"):
        options = values.pop(f"{prefix}_options")
        values |= {f"{prefix}.{name}": value for name, value in options.items() if name != "seed"}
    return values


def _label(config: TrainConfig, others: Sequence[TrainConfig]) -> str:
    """`pcgrad`, and what else sets the run apart from those of the same preset and aggregator."""
    presets = {other.preset for other in others}
    alike = [settings(o) for o in others if (o.preset, o.method) == (config.preset, config.method)]
    mine = settings(config)
    names = [n for n in mine if n not in _NAMED and any(other.get(n) != mine[n] for other in alike)]
    parts = [
        config.method.rpartition("/")[2],
        "multi-head" if config.multi_head else "",
        f"actor {config.actor_aggregator.rpartition('/')[2]}" if config.actor_aggregator else "",
        f"critic {config.critic_aggregator.rpartition('/')[2]}" if config.critic_aggregator else "",
        config.preset if len(presets) > 1 else "",
        *(f"{name.removeprefix('aggregator.')}={_spelled(mine[name])}" for name in names),
    ]
    return ", ".join(filter(None, parts))


def _spelled(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _evaluations(run: Run) -> dict[int, np.ndarray]:
    """Success per task (T,) at each evaluated step; none for a run that broke down before its first evaluation."""
    if run.status == "failed" and not run.evaluations.columns:
        return {}
    steps, curves = run.success_curves()
    return dict(zip(steps.tolist(), np.stack(list(curves.values()), axis=1), strict=True))
