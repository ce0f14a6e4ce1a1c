"""Code that a run's config names: it is run only where the user typed it, or said that it may."""

from __future__ import annotations

from collections.abc import Sequence

from envs import find_benchmark
from scripts.common.usage import UsageError
from scripts.setup.config import TrainConfig


def code_of(config: TrainConfig) -> list[str]:
    """Return the aggregators from files, and the suite if it is a function of the user's."""
    return [*(name for name in config.aggregators() if ".py:" in name), *suite_code(config)]


def suite_code(config: TrainConfig) -> list[str]:
    """Return the suite alone: what builds environments runs no aggregator."""
    return [config.suite] if find_benchmark(config.suite).is_code else []


def require_trust(code: Sequence[str], run_code: bool, what: str) -> None:
    """Raise UsageError if a config names code, and nobody said that it may be run."""
    if code and not run_code:
        raise UsageError(
            f"expected --run-code, as {what} this run runs code that its config.json names: {', '.join(code)}. "
            "Add it if you trust that code."
        )
