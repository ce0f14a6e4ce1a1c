"""Measure the speed of environments, update, aggregation and training, in a table for each part.

    python -m scripts.bench                                  all of it, for MT10; a few minutes
    python -m scripts.bench --parts env --suite MT50         the environments alone
    python -m scripts.bench --parts update --aggregators mean,pcgrad --width 1024
    python -m scripts.bench --parts architectures --rounds 3  each torso and conditioning, against plain layers
    python -m scripts.bench --parts preset --precisions float32 --compile
    python -m scripts.bench --parts update --against HEAD~9   another revision, in turns with this tree
    python -m scripts.bench --device cuda --json cuda.json   updates as graphs, timed by CUDA events
    python -m scripts.bench --trace trace.json               a few updates, for chrome://tracing or ui.perfetto.dev

What is compared takes turns in one process, so that other load on the machine slows all of it alike: quote the ratios.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.table import Table

from agents import keep_freed_memory
from agents.settings import Precision
from envs.meta_world.suites import task_names
from scripts.bench import against, architectures, environments, trace, training, updates
from scripts.bench.figures import Figure, use_cpu_time
from scripts.common import command, methods
from scripts.common.flags import Capture, Counts, Names
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_output, choose
from scripts.runs.files import write_json
from scripts.setup.build import require_device, require_precision, resolve_capture, resolve_compile
from scripts.setup.presets import PRESETS

PARTS = ("env", "update", "preset", "aggregate", "train", "memory", "architectures")
NUMBERS = ("batch_size", "width", "depth", "threads", "rounds", "envs_per_task")


@dataclass(frozen=True)
class BenchConfig:
    """Speed of environments, update and training."""

    suite: Literal["MT10", "MT25", "MT50"] = "MT10"
    """Tasks of the environments and of training; the update is measured for it and for MT50."""
    parts: Names = PARTS[:-1]
    """What to measure: env, update, preset (an update with the settings of --preset), aggregate, train, memory; and
    architectures, an update of --suite with each torso and conditioning."""
    aggregators: Names = ("mean", "pcgrad")
    """For update, preset, aggregate, memory and architectures; the others are compared with the first."""
    precisions: Names = ("float32", "bfloat16")
    """For update, preset and train."""
    batch_size: int = 128
    """Batch size per task."""
    width: int = 400
    """Units in a hidden layer of actor and critics."""
    depth: int = 3
    """Hidden layers."""
    layer_norm: bool = False
    """LayerNorm before each ReLU, in update and train (the preset mt10-quick has it)."""
    threads: int = torch.get_num_threads()
    """Torch threads."""
    rounds: Literal["auto"] | int = "auto"
    """Turns of each measurement (train: ten times as many); auto: 15, or 200 on CUDA."""
    workers: Counts = ()
    """Worker processes that step the environments; empty: 0, 1, 2, 4, ... up to the number of cores. train uses the
    largest."""
    envs_per_task: int = 1
    """For env: environments of ours per task (train: the preset's)."""
    preset: Literal["mt10-quick", "mt50-quick", "mt10"] = "mt10-quick"
    """Settings of preset and train."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the networks."""
    capture: Capture = "auto"
    """Replay updates as CUDA graphs; auto: on CUDA."""
    compile: bool = False
    """For update and preset: also measure compiled updates, in turns with the eager ones."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu: CPU time of this process, for a machine that other work keeps busy (not for workers, threads, train)."""
    against: str | None = None
    """Also run the benchmark of this revision of the repository, in turns, and print the ratios."""
    json: Path | None = None
    """Also write the numbers to this file."""
    trace: Path | None = None
    """Do not measure; write a profiler trace of a few updates, of the last aggregator and precision, to this file."""


def sections(config: BenchConfig) -> dict[str, list[Callable[[], list[Figure]]]]:
    """Return what is measured for each part."""
    sizes = [size_of(config, number) for number in sorted({len(task_names(config.suite)), 50})]
    quick = updates.PresetSize(config.preset, config.device, sizes[0].capture)
    names, precisions, suite = config.aggregators, config.precisions, config.suite
    few = 15 if config.rounds == "auto" else config.rounds
    rounds = 200 if config.rounds == "auto" and config.device == "cuda" else few
    most = len(task_names(suite)) * config.envs_per_task
    workers = tuple(k for k in config.workers if k <= most) or environments.worker_counts(suite)
    same: dict[str, Any] = {name: getattr(config, name) for name in ("suite", "threads", "device")}
    same |= {f"{network}_layer_norm": config.layer_norm for network in ("actor", "critic")}
    same |= {"capture": sizes[0].capture, "workers": max(config.workers, default="auto")}
    return {
        "env": [
            partial(environments.single_tasks, suite, few),
            partial(environments.vector_steps, suite, few, workers, config.envs_per_task),
        ],
        "update": [partial(updates.updates, size, names, precisions, config.compile, rounds) for size in sizes],
        "preset": [partial(updates.updates, quick, names, precisions, config.compile, rounds)],
        "aggregate": [partial(updates.aggregations, size, names, rounds) for size in sizes],
        "train": [partial(training.training, config.preset, precisions, 10 * rounds, **same)],
        "architectures": [partial(architectures.architectures, size_of(config, len(task_names(suite))), names, rounds)],
        "memory": [partial(updates.memory, size, names, "float32") for size in sizes],
    }


def size_of(config: BenchConfig, num_tasks: int) -> updates.Size:
    """Return what an update computes for so many tasks."""
    same = {name: getattr(config, name) for name in ("batch_size", "width", "depth", "layer_norm", "threads", "device")}
    return updates.Size(num_tasks=num_tasks, capture=resolve_capture(config.capture, config.device), **same)


def main(argv: Sequence[str]) -> int:
    """Measures, prints a table for each part, and writes the numbers if asked to."""
    config = tyro.cli(BenchConfig, prog="python -m scripts.bench", args=argv, description=__doc__)
    check(config)
    if config.against:
        return compare(config, config.against, argv)
    if config.clock == "cpu":
        use_cpu_time()
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    console, found = Screen(), dict[str, list[Figure]]()
    if config.trace:
        size = size_of(config, len(task_names(config.suite)))
        console.print(trace.trace(size, config.aggregators[-1], config.precisions[-1], config.trace), soft_wrap=True)
        return 0
    work = sections(config)
    for part in PARTS:
        if part in config.parts:
            with console.status(f"measuring: {part}"):
                found[part] = [figure for measure in work[part] for figure in measure()]
            console.print(table(found[part]))  # at once: the others may take minutes
    return conclude(config, console, figures={part: [asdict(f) for f in figures] for part, figures in found.items()})


def compare(config: BenchConfig, revision: str, argv: Sequence[str]) -> int:
    """Measure here and in another revision, print both, and write them if asked to."""
    console = Screen()
    with console.status(f"measuring, in turns with {revision}"):
        pairs = against.compare_with(revision, argv, config.clock)
    console.print(against.table(revision, pairs))
    return conclude(config, console, pairs=[asdict(pair) for pair in pairs])


def conclude(config: BenchConfig, console: Screen, **numbers: Any) -> int:
    """Say what the numbers depend on, and write both if asked to; return the exit code."""
    machine = describe_machine(config)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if config.json:
        settings = {name: value for name, value in asdict(config).items() if name not in ("json", "trace")}
        write_json(config.json, {"settings": settings, "machine": machine, **numbers})
    return 0


def check(config: BenchConfig) -> None:
    """Raise UsageError for what cannot be measured."""
    for name in NUMBERS:
        if getattr(config, name) != "auto" and getattr(config, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(config, name)}.")
    copies = {"train": PRESETS[config.preset].config.envs_per_task, "env": config.envs_per_task}
    most = len(task_names(config.suite)) * max(copies.get(part, 1) for part in ("", *config.parts))
    if bad := [str(k) for k in config.workers if not 0 <= k <= most]:
        raise UsageError(f"--workers: expected 0 to {most}, one per environment; found {', '.join(bad)}.")
    for kind, names, known in (
        ("part", config.parts, PARTS),
        ("precision", config.precisions, Precision.__args__),  # type: ignore[attr-defined]
    ):
        if not names:
            raise UsageError(f"--{kind}s: expected at least one of {', '.join(known)}; found none.")
        for name in names:
            choose(kind, name, known)
    methods.check_aggregators(config.aggregators, any_sign={*config.parts} != {"aggregate"})  # there they are positive
    require_device(config.device)
    resolve_capture(config.capture, config.device)
    resolve_compile(replace(PRESETS[config.preset].config, compile=config.compile), config.device)
    for name in config.precisions:
        require_precision(name, config.device)
    for flag, path in (("--json", config.json), ("--trace", config.trace)):
        if path:
            check_output(flag, path)


def table(figures: Sequence[Figure]) -> Table:
    """Return the figures of one part."""
    result = Table("what", "measured", "compared")
    result.columns[1].justify = "right"
    for figure in figures:
        compared = "" if figure.ratio is None else f"{figure.ratio:.2f} x {figure.against}"
        digits = 0 if figure.value >= 1000 else 1 if figure.value >= 10 else 2
        result.add_row(figure.what, f"{figure.value:,.{digits}f} {figure.unit}", compared)
    return result


def describe_machine(config: BenchConfig) -> dict[str, str]:
    """Return what the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    gpu: dict[str, str] = {}
    if config.device == "cuda":
        gpu = {"GPU": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)}
    versions = {name: version(name) for name in ("torch", "mujoco", "metaworld", "numpy")}
    return {"CPU": cpu, "cores": str(os.cpu_count()), **gpu, "threads": str(config.threads), **versions}


if __name__ == "__main__":
    command.run(main)
