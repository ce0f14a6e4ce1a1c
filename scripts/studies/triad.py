"""The tragic triad at the start of training: conflict, unequal norms and curvature of two tasks' gradients.

    python -m scripts.triad                        reach and button-press-topdown, 100 updates: a minute or two
    python -m scripts.triad --preset toy --updates 50   seconds
    python -m scripts.triad --preset mt10-paper2020 --aggregators mean,pcgrad --seeds 0,1,2 --updates 3000

Repeats the measurement of Section 5.3 of Yu et al. 2020 (arXiv 2001.06782): surgery helps where gradients conflict
with a negative cosine, differ in norm, and curvature is high. Theorem 2 asks that (a) the cosine is at most minus the
magnitude similarity, and (b) that the curvature is at least xi times a constant; as in the paper, (b) is counted as
xi <= 1. Networks, batch size and rewards are those of the preset; one update follows each step of both tasks. The
figure is the paper's fourth: a column per network; what is counted and averaged is so over a thirtieth of the updates.
"""

from __future__ import annotations

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
from matplotlib.lines import Line2D
from rich.table import Table
from stable_baselines3.common.logger import KVWriter, Logger

from mtrl import diagnostics
from scripts.analysis.style import literal, looks, picture_path, set_style, write_figure
from scripts.common import methods
from scripts.common.flags import Counts, Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError
from scripts.runs.files import check_not_of_a_run
from scripts.runs.tables import write_table
from scripts.setup.build import make_agent, make_env, resolve
from scripts.setup.config import TrainConfig
from scripts.setup.presets import find

NETWORKS = ("critic", "actor")
WINDOWS = 30
META_WORLD = ("MT1", "MT10", "MT25", "MT50")  # of which any two tasks are "custom"
PAIRS = {  # by suite
    "custom": ("reach-v3", "button-press-topdown-v3"),
    "toy": ("point-0", "point-1"),
    "push-goals": ("goal-1", "goal-2"),
}


Series = dict[str, list[dict[str, np.ndarray]]]  # aggregator -> per seed, quantity -> (updates,)


@dataclass(frozen=True)
class TriadConfig:
    """Conflict, norms and curvature of two tasks' gradients over the first updates, as a figure, CSV and table."""

    tasks: Names = ()
    """Two task names; by default reach-v3 and button-press-topdown-v3, of toy and push-goals the first two."""
    preset: str = "mt10"
    """Preset of scripts.train that gives networks, batch size and rewards."""
    aggregators: Annotated[Names, tyro.conf.arg(aliases=("--aggregator",))] = ("mean",)
    """Aggregators that update the networks meanwhile, one training each and seed; the paper shows mean and PCGrad."""
    updates: int = 100
    """Updates to measure."""
    warmup_steps: int = 500
    """Steps per task with random actions, before the first update."""
    seeds: Annotated[Counts, tyro.conf.arg(aliases=("--seed",))] = (0,)
    """Random seeds for goals, network initialisation, exploration and batch sampling, one training each."""
    out: Path = Path("triad.png")
    """The figure: a .png, .pdf or .svg file; the numbers go beside it as .csv."""


class Recorder(KVWriter):
    """Keeps what is measured at every update: per network the four quantities, and the tasks' returns."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tasks
        self.gramians: dict[str, list[np.ndarray]] = {name: [] for name in NETWORKS}
        self.curvatures: dict[str, list[float]] = {name: [] for name in NETWORKS}
        self.returns: list[list[float]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Take the cosines, lengths and curvature of a measurement."""
        if "cosines/critic" not in key_values:
            return
        for name in NETWORKS:
            lengths = np.array([key_values[f"train/{name}_norms/{task}"] for task in self.tasks])
            self.gramians[name].append(key_values[f"cosines/{name}"] * np.outer(lengths, lengths))
            self.curvatures[name].append(key_values[f"train/{name}_curvature"])
        self.returns.append([key_values.get(f"rollout/return/{task}", np.nan) for task in self.tasks])

    def close(self) -> None:
        """Nothing to close."""

    def series(self) -> dict[str, np.ndarray]:
        """Each quantity over the updates, (updates,); a return is the mean of up to twenty episodes."""
        matrices = {
            "cosine": diagnostics.cosine_matrix,
            "similarity": diagnostics.magnitude_similarity,
            "xi": diagnostics.xi,
        }
        found = {}
        for network in NETWORKS:
            gramians = torch.as_tensor(np.array(self.gramians[network]))
            for name, matrix in matrices.items():
                found[f"{network}_{name}"] = np.array([float(matrix(gramian)[0, 1]) for gramian in gramians])
            found[f"{network}_curvature"] = np.array(self.curvatures[network])
        return found | {f"return_{task}": row for task, row in zip(self.tasks, np.array(self.returns).T, strict=True)}


def main(argv: Sequence[str]) -> int:
    """Measures, draws, prints; returns the exit code."""
    request = tyro.cli(TriadConfig, prog="python -m scripts.triad", args=argv, description=__doc__)
    configs, out = check(request), picture_path(request.out)
    check_not_of_a_run("--out", out.with_suffix(".csv"))
    console = Screen()
    recorders: dict[str, list[Recorder]] = {name: [] for name in request.aggregators}
    for config in configs:
        what = f"{config.aggregator}, seed {config.seed}"
        with console.status(f"{what}: {request.warmup_steps} steps of warm-up, {request.updates} updates"):
            recorders[config.aggregator].append(measure(config, request.updates))
    found = {name: [recorder.series() for recorder in own] for name, own in recorders.items()}
    title = f"{' and '.join(configs[0].tasks)}: the first {request.updates} updates"
    write_figure(draw(found, configs[0].tasks, title), out)
    write_csv(out.with_suffix(".csv"), found, request.seeds)
    for name, own in recorders.items():
        console.print(table(own, name))
    console.print(f"wrote {out} and {out.with_suffix('.csv')}", soft_wrap=True)
    return 0


def check(request: TriadConfig) -> list[TrainConfig]:
    """Return a run's config per aggregator and seed.

    :raises UsageError: for what cannot be measured.
    """
    if request.tasks and len(request.tasks) != 2:
        raise UsageError(f"--tasks: expected two task names, found {len(request.tasks)}.")
    for name, least in (("updates", 1), ("warmup_steps", 1)):
        if getattr(request, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: expected at least {least}, found {getattr(request, name)}.")
    if not request.seeds or min(request.seeds) < 0 or len(set(request.seeds)) < len(request.seeds):
        raise UsageError(
            f"--seeds: expected different seeds of at least 0, found {', '.join(map(str, request.seeds)) or 'none'}."
        )
    methods.check_aggregators(request.aggregators)
    preset = find(request.preset).config
    suite = "custom" if preset.suite.upper() in META_WORLD else preset.suite
    if not (tasks := request.tasks or PAIRS.get(suite, ())):
        raise UsageError(f"--tasks: expected two task names of {suite}, the suite of {request.preset}; found none.")
    config = replace(preset, suite=suite, tasks=tasks, warmup_steps=request.warmup_steps, envs_per_task=1)
    config = replace(config, train_freq=1, gradient_steps=1, workers=0, log_conflicts=1, log_every=1)
    chosen = [(name, seed) for name in request.aggregators for seed in request.seeds]
    return [resolve(replace(config, aggregator=name, seed=seed)) for name, seed in chosen]


def measure(config: TrainConfig, updates: int) -> Recorder:
    """Train until so many updates were made and measured."""
    with closing(make_env(config, config.goals)) as env:
        agent, recorder = make_agent(config, env), Recorder(env.task_names)
        agent.set_logger(Logger(None, [recorder]))
        agent.learn((config.warmup_steps + updates + 1) * env.num_tasks)  # an update is logged with the step after it
    return recorder


def table(recorders: Sequence[Recorder], aggregator: str) -> Table:
    """How often the conditions held, over all seeds."""
    headings = ("network", "updates", "conflict", "of these: (a) cos <= -similarity", "(b) xi <= 1", "curvature > 0")
    result = Table(*headings, title=aggregator)
    for name in NETWORKS:
        gramians = torch.as_tensor(np.concatenate([recorder.gramians[name] for recorder in recorders]))
        curvatures = np.concatenate([recorder.curvatures[name] for recorder in recorders])
        shares = [f"{float(share):.2f}" for share in diagnostics.theorem_2(gramians)]
        result.add_row(name, str(len(gramians)), *shares, f"{np.mean(curvatures > 0):.2f}")
    return result


def write_csv(path: Path, found: Series, seeds: Sequence[int]) -> None:
    """One row per aggregator, seed and update."""
    rows = [
        {"aggregator": name, "seed": seed, "update": update}
        | {column: f"{values[update]:.6g}" for column, values in series.items()}
        for name, of_seeds in found.items()
        for seed, series in zip(seeds, of_seeds, strict=True)
        for update in range(len(series["critic_xi"]))
    ]
    write_table(path, rows, list(rows[0]))


def draw(found: Series, tasks: Sequence[str], title: str) -> Figure:
    """Draw a column per network and a colour per aggregator; conditions, curvature and returns from top to bottom."""
    set_style()
    figure, panels = plt.subplots(3, 2, figsize=(9, 7.5), sharex=True, layout="constrained", squeeze=False)
    for look, (name, of_seeds) in zip(looks(list(found)), found.items(), strict=True):
        for column, network in zip(panels.T, NETWORKS, strict=True):
            conditions = [shares(series, network) for series in of_seeds]
            for dashes, label in zip(("-", "--", ":"), conditions[0], strict=True):
                curve(column[0], [own[label] for own in conditions], label, color=look.color, linestyle=dashes)
            curvatures = [windows(series[f"{network}_curvature"]) for series in of_seeds]
            curve(column[1], curvatures, literal(name), color=look.color)
        for axes, task in zip(panels[2], tasks, strict=True):
            curve(axes, [windows(series[f"return_{task}"]) for series in of_seeds], literal(name), color=look.color)
    for column, network, task in zip(panels.T, NETWORKS, tasks, strict=True):
        column[0].set(title=f"{network}'s gradients", ylim=(-0.02, 1.02))
        column[1].set_yscale("asinh")
        column[1].set_ylim(bottom=min(0.0, *(line.get_ydata().min() for line in column[1].get_lines())))
        column[2].set(title=f"return in {literal(task)}", xlabel="update")
    for axes, label in zip(
        panels[:, 0], ("share of updates", "curvature along the step", "training episodes"), strict=True
    ):
        axes.set_ylabel(label)
    ways = [Line2D([], [], color="0.2", linestyle=dashes) for dashes in ("-", "--", ":")]
    panels[0, 1].legend(ways, list(shares(next(iter(found.values()))[0], "critic")), fontsize=8)
    panels[1, 1].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def windows(values: np.ndarray) -> list[np.ndarray]:
    """Cut a series into thirty windows, or fewer where these would be shorter than ten."""
    return np.array_split(values, max(1, min(WINDOWS, len(values) // 10)))


def shares(series: dict[str, np.ndarray], network: str) -> dict[str, list[np.ndarray]]:
    """In conflict or not; among conflicts whether (a) and (b) hold, else NaN; a label each."""
    cosine, similarity, xi = (series[f"{network}_{name}"] for name in ("cosine", "similarity", "xi"))
    conflict = cosine < 0
    held = {"(a): cosine at most -(similarity)": cosine <= -similarity, "(b): xi at most 1": xi <= 1}
    found = {"conflict": conflict.astype(float)} | {
        f"of these {name}": np.where(conflict, true, np.nan) for name, true in held.items()
    }
    return {name: windows(values) for name, values in found.items()}


def curve(axes: Axes, of_seeds: Sequence[Sequence[np.ndarray]], label: str, **style: Any) -> None:
    """Draw the mean over windows and seeds, and each seed thin."""
    ends = np.cumsum([len(window) for window in of_seeds[0]])
    rows = np.array([[np.nan if np.isnan(w).all() else np.nanmean(w) for w in own] for own in of_seeds])
    if len(rows) > 1:
        axes.plot(ends, rows.T, linewidth=0.6, alpha=0.35, **style)
    known = ~np.isnan(rows).all(0)
    axes.plot(ends[known], np.nanmean(rows[:, known], 0), linewidth=1.6, label=label, **style)
