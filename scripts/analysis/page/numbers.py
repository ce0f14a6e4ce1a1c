"""What the figures of a page are drawn from: plain lists, a few hundred points per curve, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.analysis.methods import Method, hours_at
from scripts.analysis.published import within_reach
from scripts.analysis.style import color_of
from scripts.analysis.training import NETWORKS, conflicts_over_time
from scripts.common.text import plain
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import as_usage_error
from scripts.setup.overview import by_flag, shown

QUANTITIES = {  # what training logs of each task, by its name in metrics.csv
    "train/ent_coef": "entropy temperature",
    "train/critic_norms": "norm of the critic's gradient",
    "train/actor_norms": "norm of the actor's gradient",
    "train/critic_loss": "critic loss",
    "rollout/return": "return of training episodes",
    "rollout/success": "success of training episodes",
}
_POINTS = 80  # of a curve, evenly spread over its rows


def numbers(methods: Sequence[Method]) -> dict[str, Any]:
    """Return all of them."""
    protocol = methods[0].runs[0].protocol
    last = max(method.curves[0][-1] for method in methods)
    return {
        "benchmark": plain(protocol.benchmark),
        "tasks": list(map(plain, protocol.tasks)),
        "quantities": QUANTITIES,
        "methods": [_method(method) for method in methods],
        "published": [
            {"name": f"{p.method} ({p.source})", "steps": p.steps, "success": p.success, "statistic": p.statistic}
            for p in within_reach(protocol.benchmark, last)
        ],
    }


def _method(method: Method) -> dict[str, Any]:
    steps, curves = method.curves
    hours, whole = _hours(method.runs, steps), _hours(method.timed, steps)
    return {
        "label": plain(method.label),
        "color": color_of(method.aggregator),
        "seeds": method.seeds,
        "steps": steps.tolist(),
        "hours": hours,
        "mean_hours": whole and rounded(np.mean(whole, axis=0), 4),
        "success": rounded(curves),
        "training": [_training(run) for run in method.runs],
        "conflicts": _conflicts(method),
    }


def _hours(runs: Sequence[Run], steps: np.ndarray) -> list[Any] | None:
    """Hours (runs, steps), with the time for evaluations; None where they are not known."""
    try:
        return rounded(np.array([hours_at(run, steps, evaluations=True) for run in runs]), 4)
    except UsageError:
        return None


def _training(run: Run) -> dict[str, Any]:
    """Return by quantity the steps and a curve per task, over at most _POINTS rows in which it was logged."""
    with as_usage_error(run.metrics.path):
        rows = run.metrics.read()
        found: dict[str, Any] = {}
        for name in QUANTITIES:
            columns = [f"{name}/{task}" for task in run.protocol.tasks]
            there = [row for row in rows if any(row.get(column) for column in columns)]
            kept = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, min(len(there), _POINTS)).astype(int))]
            values = [[float(row.get(column) or "nan") for row in kept] for column in columns]
            if kept:
                found[name] = {"steps": [run.step_of(row) for row in kept], "values": rounded(np.array(values))}
    return found


def _conflicts(method: Method) -> dict[str, Any]:
    """By network: the edges of the windows of training, and in each the share of conflicts of each pair in percent."""
    found = {}
    for network in NETWORKS:
        try:
            edges, maps = conflicts_over_time(method, network, windows=8)
        except UsageError:  # not measured
            continue
        shares = [[[None if math.isnan(x) else round(100 * x) for x in row] for row in matrix] for matrix in maps]
        found[network] = {"edges": edges.round().tolist(), "shares": shares}
    return found


def rounded(values: np.ndarray, digits: int = 3) -> list[Any]:
    """Return nested lists with so many significant digits; None for what is not finite, as JSON has no NaN."""
    if values.ndim:
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if np.isfinite(values) else None  # type: ignore[return-value]


def settings(
    methods: Sequence[Method], presets: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Return a row per setting: its flag, and by method its value and whether that is not the preset's."""
    columns = [by_flag(method.runs[0].config) for method in methods]
    own = [presets.get(method.runs[0].config.preset, {}) for method in methods]
    flags = dict.fromkeys(flag for column in columns for flag in column)
    return [
        (
            flag,
            [
                (plain(shown(c.get(flag, ""))), flag in p and p[flag] != c.get(flag))
                for c, p in zip(columns, own, strict=True)
            ],
        )
        for flag in flags
    ]
