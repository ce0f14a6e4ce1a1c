"""Many runs by one command: arms x seeds x presets, side by side on this machine; what is finished is skipped.

    python -m scripts.sweep toy --arms mean,pcgrad --seeds 0,1,2
    python -m scripts.sweep mt10-quick --arms paper --seeds 0,1,2 --out runs/paper --flags "--steps-per-task 20000"
    python -m scripts.sweep sweep.toml

An arm is an aggregator or one of those that --help lists: a name for a few flags of scripts.train. Run the same command
again and it goes on where it stopped: finished runs are skipped, stopped ones resumed, new ones begun. In a TOML file
the flags are keys, and a table `define` names arms of your own:

    presets = ["mt10-quick"]
    arms = ["mean", "pcgrad", "slow"]
    seeds = [0, 1, 2]
    define.slow = "--aggregator pcgrad --learning-rate 1e-4"

Exit codes: 0 all runs are finished, 1 some are not, 128 + n stopped by signal n (130 by Ctrl-C); a run that failed does
not stop the others.
"""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import tyro

from scripts.common import command
from scripts.common.screen import Screen
from scripts.common.usage import UsageError, check_folder, choose, step_limit
from scripts.sweeps.board import Board
from scripts.sweeps.launchers import Launcher, LocalLauncher, Stop, execute
from scripts.sweeps.plan import ARMS, GROUPS, Plan, SweepConfig, logs, make_jobs, plan, set_aside, share_cores

EXIT_INCOMPLETE = 1
_LONGEST = 2**20  # characters of a .toml file
PROGRAM = "python -m scripts.sweep"


def main(argv: Sequence[str]) -> int:
    """Runs what `argv` names; returns the exit code."""
    request = parse(argv)
    request = replace(request, out=check_folder("--out", str(request.out)))
    plans = [plan(job) for job in make_jobs(request)]
    open_plans = [p for p in plans if p.argv]
    at_once, threads = share_cores(request, len(open_plans))
    if request.dry_run:
        for p in plans:
            line = shlex.join(["python", "-m", "scripts.train", *_words(p, threads)])
            print(line if p.argv else f"# {p.job.name} is {p.action}")
        return 0
    console = Screen()
    over = Counter(p.action for p in plans if not p.argv)
    console.print(
        f"{len(plans)} runs in {shlex.quote(str(request.out))}, {over['finished']} already finished"
        f"{', {} failed before'.format(over['failed']) if over['failed'] else ''}; "
        f"{at_once} at once, torch threads of each: {threads}",
        soft_wrap=True,
    )
    if trials := sum(p.job.config.trial for p in plans):
        console.print(f"STEPS={step_limit()} is set: {trials} trials, no results. The same command replaces them.")
    return run(plans, LocalLauncher(threads), at_once, threads, console)


def run(plans: Sequence[Plan], launcher: Launcher, at_once: int, threads: int, console: Screen) -> int:
    """Executes what is left of the plans and says how it ended; returns the exit code."""
    commands = {}
    for p in plans:
        if p.argv:
            logs(p.job).parent.mkdir(parents=True, exist_ok=True)
            if p.action == "restart":
                set_aside(p.job.path)
            commands[p.job.name] = (_words(p, threads), logs(p.job))
    with Board(plans, console) as board:
        stop = Stop(board.say)
        with stop.listening():
            execute(commands, launcher, at_once, stop, board.update)
            complete = board.conclude()
    if stop.signal:
        console.print("Stopped. The same command goes on with it.")
        return 128 + stop.signal
    return 0 if complete else EXIT_INCOMPLETE


def _words(p: Plan, threads: int) -> tuple[str, ...]:
    return p.argv if p.action == "resume" else (*p.argv, "--threads", str(threads))


def parse(argv: Sequence[str]) -> SweepConfig:
    """The request in flags, or in a TOML file with flags over it."""
    argv = _joined(argv)
    files = [word for word in argv if word.endswith(".toml")]
    if files:
        keys = read_toml(Path(files[0]))
        presets = ",".join(keys.pop("presets"))
        words = [presets, *(word for word in argv if word != files[0])]
        defaults = SweepConfig(presets=(presets,), **keys, trusted=False)
        return tyro.cli(SweepConfig, prog=PROGRAM, args=words, default=defaults)
    if not argv:
        raise UsageError(f"expected presets or a .toml file, found nothing. Try: {PROGRAM} toy")
    groups = "; ".join(f"{name}: {', '.join(arms)}" for name, arms in GROUPS.items())
    listing = f"Arms: {', '.join(ARMS)}, torchjd:NAME, path/to/file.py:NAME. Groups of arms: {groups}."
    return tyro.cli(SweepConfig, prog=PROGRAM, args=argv, description=f"{__doc__}\n\n{listing}")


def _joined(argv: Sequence[str]) -> list[str]:
    """`--flags "--x 1"` as one word, or its value would be taken for a flag."""
    words = list(argv)
    if "--flags" in words[:-1]:
        at = words.index("--flags")
        words[at : at + 2] = [f"--flags={words[at + 1]}"]
    return words


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a sweep's file, as the fields of SweepConfig. Raises UsageError for what is missing or unknown."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows begin a file with a mark
            keys = tomllib.loads(file.read(_LONGEST))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"expected a sweep in TOML at {path}; found: {error}.") from error
    known = {f.name for f in fields(SweepConfig)} - {"dry_run", "run_code", "trusted"}
    for key in keys:
        choose(f"key in {path}", key, known)
    kinds: dict[str, tuple[type, type | None]] = {
        **dict.fromkeys(("presets", "arms"), (list, str)),
        **{"seeds": (list, int), "define": (dict, str), "out": (str, None), "flags": (str, None)},
    }
    for key, (kind, item) in kinds.items():
        value = keys.get(key, kind())
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or (item and not all(type(one) is item for one in items)):
            expected = f"a {kind.__name__} of {item.__name__}" if item else "a string"
            raise UsageError(f"{path}: {key}: expected {expected}; found {value!r}.")
    for key in ("jobs", "threads"):
        if key in keys and keys[key] != "auto" and type(keys[key]) is not int:
            raise UsageError(f"{path}: {key}: expected auto or a number; found {keys[key]!r}.")
    if not keys.get("presets"):
        raise UsageError(f'{path}: expected the presets to train, e.g. presets = ["mt10-quick"]; found none.')
    return {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()} | (
        {"out": Path(keys["out"])} if "out" in keys else {}
    )


if __name__ == "__main__":
    command.run(main, files=True)
