"""Success rates from the literature, with source and protocol: what stands beside our tables and never within them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from scripts.common.text import plain
from scripts.common.usage import UsageError
from scripts.runs.protocol import Protocol


@dataclass(frozen=True)
class Published:
    """One number, and how it was measured; what the source leaves open is None."""

    source: str
    url: str
    benchmark: str
    reward_version: str
    selection: str  # final or best
    statistic: str  # mean or IQM
    method: str
    steps: int  # environment steps per task
    success: float
    horizon: int | None = None
    episodes: int | None = None
    seeds: int | None = None

    def differences(self, protocol: Protocol, steps: int) -> list[str]:
        """In what its protocol differs from ours after `steps` per task, or says nothing; empty if they fit."""
        ours = {
            "reward_version": protocol.reward_version,
            "horizon": protocol.horizon,
            "horizon in training": protocol.train_horizon,
            "episodes": protocol.episodes_final,
            "steps": steps,
            "selection": "final",
        }
        # no source says that it trains with another horizon, and one that says none is told so once
        found = vars(self) | {"horizon in training": self.horizon or protocol.train_horizon}
        names = {"reward_version": "reward", "steps": "steps per task", "selection": "of each run"}
        return [f"{names.get(key, key)} {_spelled(found[key])}" for key in ours if found[key] != ours[key]]


def _spelled(value: object) -> str:
    return "not stated" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _all() -> list[Published]:
    document = tomllib.loads((resources.files("scripts.analysis") / "published.toml").read_text())
    numbers = []
    for table in document["table"]:
        shared = {name: value for name, value in table.items() if name != "rows"}
        numbers += [Published(**shared, **row) for row in table["rows"]]
    return numbers


def published(benchmark: str) -> list[Published]:
    """All numbers for a benchmark, in the order of the file."""
    return [number for number in _all() if number.benchmark == benchmark]


def within_reach(benchmark: str, steps: int) -> list[Published]:
    """Those that fit into a picture of curves of so many steps per task: at most half as many again."""
    return [number for number in published(benchmark) if number.steps <= 1.5 * steps]


def require_within_reach(benchmark: str, steps: int) -> list[Published]:
    """Return those within reach.

    :raises UsageError: if there are none.
    """
    if not (found := published(benchmark)):
        known = ", ".join(sorted({number.benchmark for number in _all()}))
        raise UsageError(
            f"--published: expected a benchmark with published figures ({known}); found {plain(benchmark)}."
        )
    if not (near := within_reach(benchmark, steps)):
        first = min(number.steps for number in found)
        raise UsageError(
            f"--published: the first published figures of {benchmark} are those after {first:,} steps per task; these "
            f"runs end at {steps:,}."
        )
    return near
