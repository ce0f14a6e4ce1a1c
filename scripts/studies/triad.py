"""The tragic triad at the start of training: conflict, unequal norms and curvature of two tasks' gradients.

    python -m scripts.triad                        reach and button-press-topdown, 100 updates: a minute or two
    python -m scripts.triad --preset toy --updates 50   seconds
    python -m scripts.triad --aggregators mean,pcgrad --preset mt10-paper2020   several methods on one picture

Repeats the measurement of Section 5.3 of Yu et al. 2020 (arXiv 2001.06782): surgery helps where gradients conflict
with a negative cosine, differ in norm, and curvature is high. Theorem 2 asks that (a) the cosine is at most minus the
magnitude similarity, and (b) that the curvature is at least xi times a constant; as in the paper, (b) is counted as
xi <= 1. Networks, batch size and rewards are those of the preset; one update follows each step of both tasks.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from stable_baselines3.common.logger import KVWriter, Logger

from mtrl import diagnostics
from scripts.analysis.style import COLORS, literal, looks, picture_path, set_style
from scripts.common import methods
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs.files import check_not_of_a_run
from scripts.setup.build import make_agent, make_env, resolve
from scripts.setup.config import TrainConfig
from scripts.setup.presets import find

NETWORKS = ("critic", "actor")
PAPER, TOY = ("reach-v3", "button-press-topdown-v3"), ("point-0", "point-1")


@dataclass(frozen=True)
class TriadConfig:
    """Conflict, norms and curvature of two tasks' gradients over the first updates, as a figure, CSV and table."""

    tasks: Names = ()
    """Two task names; by default reach-v3 and button-press-topdown-v3, of the toy suite the first two."""
    preset: str = "mt10"
    """Preset of scripts.train that gives networks, batch size and rewards."""
    aggregators: Annotated[Names, tyro.conf.arg(aliases=("--aggregator",))] = ("mean",)
    """Aggregators that update the networks meanwhile, one training each; the paper measured under the mean."""
    updates: int = 100
    """Updates to measure."""
    warmup_steps: int = 500
    """Steps per task with random actions, before the first update."""
    seed: int = 0
    """Random seed for goals, network initialisation, exploration and batch sampling."""
    out: Path = Path("triad.png")
    """The figure: a .png, .pdf or .svg file; the numbers go beside it as .csv."""


class Recorder(KVWriter):
    """Keeps what is measured at every update: per network the four quantities."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tasks
        self.gramians: dict[str, list[np.ndarray]] = {name: [] for name in NETWORKS}
        self.curvatures: dict[str, list[float]] = {name: [] for name in NETWORKS}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Take the cosines, lengths and curvature of a measurement."""
        for name in NETWORKS:
            if f"cosines/{name}" in key_values:
                lengths = np.array([key_values[f"train/{name}_norms/{task}"] for task in self.tasks])
                self.gramians[name].append(key_values[f"cosines/{name}"] * np.outer(lengths, lengths))
                self.curvatures[name].append(key_values[f"train/{name}_curvature"])

    def close(self) -> None:
        """Nothing to close."""

    def series(self, network: str) -> dict[str, np.ndarray]:
        """Each quantity over the updates, (updates,)."""
        gramians = torch.as_tensor(np.array(self.gramians[network]))
        matrices = {
            "cosine": diagnostics.cosine_matrix,
            "similarity": diagnostics.magnitude_similarity,
            "xi": diagnostics.xi,
        }
        found = {name: np.array([float(f(g)[0, 1]) for g in gramians]) for name, f in matrices.items()}
        return {**found, "curvature": np.array(self.curvatures[network])}


def main(argv: Sequence[str]) -> int:
    """Measures, draws, prints; returns the exit code."""
    request = tyro.cli(TriadConfig, prog="python -m scripts.triad", args=argv, description=__doc__)
    configs, out = check(request), picture_path(request.out)
    check_not_of_a_run("--out", out.with_suffix(".csv"))
    console = Screen()
    recorders = {}
    for config in configs:
        with console.status(f"{config.aggregator}: {request.warmup_steps} steps of warm-up, {request.updates} updates"):
            recorders[config.aggregator] = measure(config, request.updates)
    found = {name: {net: recorder.series(net) for net in NETWORKS} for name, recorder in recorders.items()}
    title = f"{' and '.join(configs[0].tasks)}: the first {request.updates} updates"
    if len(found) == 1:
        ((name, series),) = found.items()
        draw(series, f"{title} under {name}").savefig(out, dpi=150)
    else:
        draw_side_by_side(found, title).savefig(out, dpi=150)
    write_csv(out.with_suffix(".csv"), found)
    for name, recorder in recorders.items():
        console.print(table(recorder, name))
    console.print(f"wrote {out} and {out.with_suffix('.csv')}", soft_wrap=True)
    return 0


def check(request: TriadConfig) -> list[TrainConfig]:
    """Return a run's config per aggregator.

    :raises UsageError: for what cannot be measured.
    """
    if request.tasks and len(request.tasks) != 2:
        raise UsageError(f"--tasks: expected two task names, found {len(request.tasks)}.")
    for name, least in (("updates", 1), ("warmup_steps", 1), ("seed", 0)):
        if getattr(request, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: expected at least {least}, found {getattr(request, name)}.")
    methods.check_aggregators(request.aggregators)
    preset = find(request.preset).config
    suite, tasks = ("toy", TOY) if preset.suite == "toy" else ("custom", PAPER)
    config = replace(preset, suite=suite, tasks=request.tasks or tasks, seed=request.seed)
    config = replace(config, warmup_steps=request.warmup_steps, train_freq=1, gradient_steps=1, workers=0)
    config = replace(config, log_conflicts=1, log_every=1)
    return [resolve(replace(config, aggregator=name)) for name in request.aggregators]


def measure(config: TrainConfig, updates: int) -> Recorder:
    """Train until so many updates were made and measured."""
    with closing(make_env(config, config.goals)) as env:
        agent, recorder = make_agent(config, env), Recorder(env.task_names)
        agent.set_logger(Logger(None, [recorder]))
        agent.learn((config.warmup_steps + updates + 1) * env.num_tasks)  # an update is logged with the step after it
    return recorder


def table(recorder: Recorder, aggregator: str) -> Table:
    """How often the conditions held."""
    headings = ("network", "updates", "conflict", "of these: (a) cos <= -similarity", "(b) xi <= 1", "curvature > 0")
    result = Table(*headings, title=aggregator)
    for name in NETWORKS:
        gramians = torch.as_tensor(np.array(recorder.gramians[name]))
        shares = [f"{float(share):.2f}" for share in diagnostics.theorem_2(gramians)]
        result.add_row(name, str(len(gramians)), *shares, f"{np.mean(np.array(recorder.curvatures[name]) > 0):.2f}")
    return result


def write_csv(path: Path, found: dict[str, dict[str, dict[str, np.ndarray]]]) -> None:
    """One row per update; the columns of several aggregators begin with their names."""
    columns = {
        f"{f'{aggregator}_' * (len(found) > 1)}{network}_{name}": values
        for aggregator, series in found.items()
        for network, own in series.items()
        for name, values in own.items()
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["update", *columns])
        writer.writerows([i, *(f"{x:.6g}" for x in row)] for i, row in enumerate(zip(*columns.values(), strict=True)))


def draw(series: dict[str, dict[str, np.ndarray]], title: str) -> Figure:
    """Draw a column per network; conflict, norms, xi and curvature from top to bottom."""
    set_style()
    figure, panels = plt.subplots(3, 2, figsize=(9, 6.5), sharex=True, layout="constrained", squeeze=False)
    for column, name in zip(panels.T, NETWORKS, strict=True):
        found = series[name]
        conflict(column[0], found)
        column[0].set_title(f"{name}: conflict in {np.mean(found['cosine'] < 0):.0%} of {len(found['cosine'])} updates")
        line(column[1], found["xi"], "xi;\n(b) holds below 1", COLORS[2])
        column[1].set_yscale("log")
        column[1].axhline(1, color="0.4", linewidth=0.8)
        line(column[2], found["curvature"], "curvature along the step", COLORS[3])
        column[2].axhline(0, color="0.4", linewidth=0.8)
        column[2].ticklabel_format(axis="y", scilimits=(-2, 3))
        column[2].set_xlabel("update")
    figure.suptitle(title)
    return figure


def draw_side_by_side(found: dict[str, dict[str, dict[str, np.ndarray]]], title: str) -> Figure:
    """Draw a column per network and a line per aggregator; cosine, xi and curvature from top to bottom."""
    set_style()
    figure, panels = plt.subplots(3, 2, figsize=(9, 6.5), sharex=True, layout="constrained", squeeze=False)
    for column, network in zip(panels.T, NETWORKS, strict=True):
        for look, (name, series) in zip(looks(list(found)), found.items(), strict=True):
            own, style = (
                series[network],
                {"color": look.color, "linestyle": look.dashes, "linewidth": 1.0, "alpha": 0.8},
            )
            column[0].plot(
                own["cosine"], **style, label=f"{literal(name)}: conflict in {np.mean(own['cosine'] < 0):.0%}"
            )
            column[1].plot(own["xi"], **style)
            column[2].plot(own["curvature"], **style)
        for axes, level in zip(column, (0, 1, 0), strict=True):
            axes.axhline(level, color="0.4", linewidth=0.8)
        column[0].set(title=network, ylim=(-1.05, 1.75), yticks=(-1, -0.5, 0, 0.5, 1))
        column[0].legend(fontsize=8, loc="upper right", ncols=2)
        column[1].set_yscale("log")
        column[2].set_yscale("asinh")
        column[2].set_xlabel("update")
    for axes, label in zip(panels[:, 0], ("cosine of the gradients", "xi", "curvature along the step"), strict=True):
        axes.set_ylabel(label)
    figure.suptitle(title)
    return figure


def conflict(axes: Axes, found: dict[str, np.ndarray]) -> None:
    """Cosine over the updates, with the bound of condition (a)."""
    line(axes, found["cosine"], "", COLORS[0], "cosine of the gradients")
    axes.plot(-found["similarity"], color=COLORS[1], linewidth=1, linestyle="--", label="-(magnitude similarity)")
    axes.fill_between(range(len(found["cosine"])), -1, 0, color="0.5", alpha=0.08, linewidth=0)
    axes.set(ylim=(-1.05, 1.75), yticks=(-1, -0.5, 0, 0.5, 1), ylabel="conflict below 0;\n(a) holds below the dashes")
    axes.legend(fontsize=8, loc="upper right", ncols=2)


def line(axes: Axes, values: np.ndarray, label: str, color: str, legend: str = "") -> None:
    """One curve over the updates."""
    axes.plot(values, color=color, linewidth=1.2, label=legend or None)
    axes.set_ylabel(label)
