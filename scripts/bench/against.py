"""This tree against another revision of it: both run the same benchmark, and take turns at each measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.common.usage import UsageError

ROOT = Path(__file__).resolve().parents[2]
_OWN = ("--against", "--clock", "--json")  # flags that are not for the two sides


@dataclass(frozen=True)
class Pair:
    """One number of both trees."""

    what: str
    there: float
    here: float
    unit: str

    @property
    def ratio(self) -> float:
        """The number here over that of the revision."""
        return self.here / self.there


def compare_with(revision: str, argv: Sequence[str], clock: str, root: Path = ROOT) -> list[Pair]:
    """Run the benchmark with these flags here and in a work tree of the revision, which is gone afterwards.

    :param clock: "wall" or "cpu", for what is measured in turns.
    :raises UsageError: if there is no such revision, or the benchmark fails on either side.
    """
    with _work_tree(root, revision) as there:
        here, before = _take_turns({"this tree": root, revision: there}, _without(argv, _OWN), clock)
    known = {row["what"]: row["value"] for rows in before.values() for row in rows}
    return [
        Pair(row["what"].strip(), known[row["what"]], row["value"], row["unit"])
        for rows in here.values()
        for row in rows
        if known.get(row["what"])
    ]


def table(revision: str, pairs: Sequence[Pair]) -> Table:
    """Return what was measured on both sides."""
    result = Table("what", revision, "here", "here / there")
    for column in result.columns[1:]:
        column.justify = "right"
    for pair in pairs:
        result.add_row(
            pair.what, f"{pair.there:,.4g} {pair.unit}", f"{pair.here:,.4g} {pair.unit}", f"{pair.ratio:.2f}"
        )
    return result


@contextmanager
def _work_tree(root: Path, revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder, "tree")
        git = ["git", "-C", str(root), "worktree"]
        try:
            subprocess.run([*git, "add", "--detach", there, "--", revision], capture_output=True, check=True, text=True)
        except FileNotFoundError as error:
            raise UsageError("--against: expected git; found none. Install it.") from error
        except subprocess.CalledProcessError as error:
            told = error.stderr.strip().rpartition("\n")[2]
            raise UsageError(f"--against {revision}: expected a revision of the repository {root}; {told}.") from error
        try:
            yield there
        finally:
            subprocess.run([*git, "remove", "--force", there], capture_output=True, check=False)


def _take_turns(trees: dict[str, Path], flags: list[str], clock: str) -> list[dict[str, list[dict[str, Any]]]]:
    """Return the figures of each tree by part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pipes = [os.pipe(), os.pipe()]  # each side reads from its own and writes to the other's
        processes = []
        for i, tree in enumerate(trees.values()):
            take, give = pipes[i][0], pipes[1 - i][1]
            command = [sys.executable, str(Path(__file__).with_name("turn.py")), str(tree), str(take), str(give), clock]
            process = subprocess.Popen(
                [*command, *flags, "--json", str(folder / f"{i}.json")],
                pass_fds=(take, give),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(open(folder / f"{i}.txt", "w")),
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes.append(process)
        os.write(pipes[0][1], b"x")
        for descriptor in (each for pipe in pipes for each in pipe):
            os.close(descriptor)
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.1)
        for i, (name, code) in enumerate(zip(trees, codes, strict=True)):
            if code:
                told = (folder / f"{i}.txt").read_text().strip()
                raise UsageError(f"--against: the benchmark of {name} ended with exit code {code}:\n{told}")
        return [json.loads((folder / f"{i}.json").read_text())["figures"] for i in range(len(trees))]


def _without(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the words of a command without some flags and their values."""
    kept, words = [], iter(argv)
    for word in words:
        if word in flags:
            next(words)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept
