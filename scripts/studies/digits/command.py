"""Two overlaid digits, left and right as tasks: which aggregator and which architecture names them best?

    python -m scripts.digits                                everything; six minutes of processor time
    python -m scripts.digits --out results/digits        the same, kept as CSV and Markdown
    python -m scripts.digits --architectures hard-sharing --aggregators mean,pcgrad --seeds 2 --epochs 5     seconds

MultiMNIST in small, made of the digits inside scikit-learn (extra [digits]; no download). For each seed all aggregators
get the same images, pairs, first weights and batches, so differences are taken seed by seed. Each task is also
trained alone in the same network: what joint training gains over that is the TCI. Every aggregator has its default
options and the same learning rate, chosen for `mean` on a seed that is not reported; nothing was tuned on the results.
"""

from __future__ import annotations

import math
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mtrl import AGGREGATORS
from mtrl.diagnostics import conflict_intensity
from scripts.common import methods
from scripts.common.flags import Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_output, choose, step_limit
from scripts.studies.digits import results
from scripts.studies.digits.data import TASKS, Pairs, load_images, make_pairs
from scripts.studies.digits.networks import ARCHITECTURES
from scripts.studies.digits.results import ALONE, Run
from scripts.studies.digits.training import Outcome, new_network, train_alone, train_jointly

PROGRAM = "python -m scripts.digits"


@dataclass(frozen=True)
class DigitsConfig:
    """Two overlaid digits, left and right as tasks."""

    architectures: Names = tuple(ARCHITECTURES)
    """Of hard-sharing, mmoe, attention."""
    aggregators: Names = tuple(AGGREGATORS)
    """Any of mtrl.AGGREGATORS, torchjd:NAME or path/to/file.py:NAME."""
    seeds: int = 5
    """How many: 0, 1, ..."""
    epochs: int = 30
    """How often each training image is shown, once on the left and once on the right."""
    batch_size: int = 128
    """Pairs in a batch."""
    learning_rate: float = 5e-3
    """Of Adam, for all."""
    out: Path | None = None
    """Folder for runs.csv, summary.csv and README.md; made if it is not there, old results in it are replaced."""


def main(argv: Sequence[str]) -> int:
    """Trains, prints a table per architecture, and keeps the numbers if asked to."""
    config = tyro.cli(DigitsConfig, prog=PROGRAM, args=argv, description=__doc__)
    check(config)
    images, labels = load_images()
    torch.set_num_threads(1)
    console, start = Screen(), time.perf_counter()
    if limit := step_limit():
        console.print(f"STEPS={limit} is set: a trial of at most {limit} updates each.")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("eta"), TimeRemainingColumn(), console=console, speed_estimate_period=600
    ) as bar:
        row = bar.add_task("", total=config.seeds * len(config.architectures) * (1 + len(config.aggregators)))
        runs = []
        for seed in range(config.seeds):
            pairs = limited(make_pairs(images, labels, seed, config.epochs, config.batch_size))
            for run in train_all(config, seed, pairs):
                runs.append(run)
                bar.update(row, advance=1, description=f"seed {run.seed}, {run.architecture}, {run.aggregator}")
    lines = results.summarise(runs)
    console.print(*results.tables(lines), results.EXPLAINED_ON_SCREEN, sep="\n")
    if config.out:
        results.write(
            config.out, runs, lines, facts(config, len(pairs.batches), minutes=(time.perf_counter() - start) / 60)
        )
        console.print(f"wrote {config.out}", soft_wrap=True)
    return 0


def train_all(config: DigitsConfig, seed: int, pairs: Pairs) -> Iterator[Run]:
    """For each architecture: both tasks alone, then jointly with each aggregator."""
    for architecture in config.architectures:
        apart = [
            train_alone(new_network(architecture, seed), t, pairs, config.learning_rate) for t in range(len(TASKS))
        ]
        alone = Outcome(
            errors=torch.stack([outcome.errors[task] for task, outcome in enumerate(apart)]),
            losses=torch.stack([outcome.losses[task] for task, outcome in enumerate(apart)]),
            gcd=math.nan,
            conflicts=math.nan,
            seconds=sum(outcome.seconds for outcome in apart),
        )
        yield as_run(architecture, ALONE, seed, alone, alone)
        for name in config.aggregators:
            aggregator = methods.build(name, seed=seed)
            outcome = train_jointly(new_network(architecture, seed), aggregator, pairs, config.learning_rate)
            yield as_run(architecture, name, seed, outcome, alone)


def as_run(architecture: str, name: str, seed: int, outcome: Outcome, alone: Outcome) -> Run:
    """A row of runs.csv; TCI is in test error."""
    tci = [math.nan, math.nan] if name == ALONE else conflict_intensity(outcome.errors, alone.errors).tolist()
    (error_left, error_right), (loss_left, loss_right) = outcome.errors.tolist(), outcome.losses.tolist()
    return Run(
        architecture=architecture,
        aggregator=name,
        seed=seed,
        error_left=error_left,
        error_right=error_right,
        loss_left=loss_left,
        loss_right=loss_right,
        tci_left=tci[0],
        tci_right=tci[1],
        gcd=outcome.gcd,
        conflicts=outcome.conflicts,
        seconds=outcome.seconds,
    )


def limited(pairs: Pairs) -> Pairs:
    """At most as many updates as the environment variable STEPS says."""
    limit = step_limit()
    return pairs._replace(batches=pairs.batches[:limit], labels=pairs.labels[:limit])


def facts(config: DigitsConfig, updates: int, minutes: float) -> dict[str, str]:
    """What the numbers depend on."""
    names = [field.name for field in fields(config) if getattr(config, field.name) != field.default]
    flags = [word for name in names if name != "out" for word in (cli_flag(name), _spelled(config, name))]
    return {
        "command": f"`{shlex.join([*PROGRAM.split(), *flags])}`, one thread",
        "time": f"{minutes:.1f} minutes, {time.process_time() / 60:.1f} of them on the processor",
        "seeds": ", ".join(map(str, range(config.seeds))),
        "training": f"{updates} updates ({config.epochs} epochs), batches of {config.batch_size}, Adam at "
        f"{config.learning_rate:g}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "scikit-learn", "numpy"))
        + f", Python {platform.python_version()}",
    }


def cli_flag(name: str) -> str:
    """How a field is spelled on the command line."""
    return f"--{name.replace('_', '-')}"


def _spelled(config: DigitsConfig, name: str) -> str:
    value = getattr(config, name)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def check(config: DigitsConfig) -> None:
    """Raises UsageError for what cannot be trained or written."""
    for name in ("seeds", "epochs", "batch_size"):
        if getattr(config, name) < 1:
            raise UsageError(f"{cli_flag(name)}: expected at least 1, found {getattr(config, name)}.")
    if not 0 < config.learning_rate < math.inf:
        raise UsageError(f"--learning-rate: expected a finite number above 0, found {config.learning_rate}.")
    methods.check_list("--architectures", config.architectures, ARCHITECTURES)
    for name in config.architectures:
        choose("architecture", name, ARCHITECTURES)
    methods.check_aggregators(config.aggregators)
    if config.out:
        try:
            config.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out: expected a folder, or a place for one; found {error}.") from error
        check_output("--out", config.out / "runs.csv")
