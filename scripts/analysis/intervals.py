"""Success over seeds as one number and an interval, as rliable defines them (Agarwal et al. 2021, arXiv 2108.13264).

SciPy does the work: rliable itself was archived in October 2025, brings eight packages, and its
dependencies no longer import together; the tests hold these functions to its numbers. Scores are arrays (seeds, tasks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy import stats  # type: ignore[import-untyped]

Scores = Float[np.ndarray, "seeds tasks"]
Interval = tuple[float, float]
RESAMPLES = 9999


def mean(scores: Scores) -> float:
    """Mean over seeds and tasks."""
    return float(scores.mean())


def iqm(scores: Scores) -> float:
    """Interquartile mean: of all seeds and tasks together, the mean of the middle half."""
    return float(stats.trim_mean(scores, 0.25, axis=None))


def worst(scores: Scores, count: int) -> float:
    """Mean over seeds of the mean of each seed's `count` lowest tasks."""
    return float(np.sort(scores, axis=1)[:, :count].mean())


def mean_interval(scores: Scores, resamples: int = RESAMPLES) -> Interval | None:
    """95 % stratified bootstrap interval of `mean`; None for a single seed."""
    return _bootstrap(_pooled(np.mean), scores, resamples=resamples)


def iqm_interval(scores: Scores) -> Interval | None:
    """95 % stratified bootstrap interval of `iqm`; None for a single seed."""
    return _bootstrap(_pooled(partial(stats.trim_mean, proportiontocut=0.25)), scores)


def improvement(scores: Scores, baseline: Scores) -> float:
    """Probability that a seed of `scores` beats one of `baseline`, mean over tasks; a tie counts half (Mann-Whitney).

    The seeds are not paired here, and their numbers may differ.
    """
    return float(_improvement(*scores.T, *baseline.T))


def improvement_interval(scores: Scores, baseline: Scores) -> Interval | None:
    """95 % stratified bootstrap interval of `improvement`; None if either has a single seed."""
    return _bootstrap(_improvement, scores, baseline)


def paired_difference(scores: Scores, baseline: Scores) -> tuple[float, Interval | None]:
    """Mean over seeds of (score - baseline), each a mean over tasks, and its 95 % t-interval; None for a single seed.

    Row k of both is the same seed. Student's t and not the bootstrap: an interval inside the range of n differences
    covers their centre with at most 1 - 2^(1-n), which is 75 % for three seeds.
    """
    differences = (scores - baseline).mean(1)
    centre, half = float(differences.mean()), half_width(differences)
    return centre, None if half is None else (centre - half, centre + half)


def half_width(values: Float[np.ndarray, " seeds"]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for a single seed."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1)) / math.sqrt(len(values))


def _bootstrap(statistic: Callable[..., np.ndarray], *groups: Scores, resamples: int = RESAMPLES) -> Interval | None:
    """Percentiles of a statistic of the groups' columns, where each task's seeds are redrawn by themselves."""
    if min(map(len, groups)) < 2:
        return None
    found = stats.bootstrap(
        [column for scores in groups for column in scores.T],
        statistic,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _pooled(statistic: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *columns, axis: statistic(np.concatenate(columns, axis), axis=axis)


def _improvement(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the columns of the scores, then those of the baseline, each (..., seeds) -> (...)."""
    half = len(columns) // 2
    pairs = zip(columns[:half], columns[half:], strict=True)
    shares = [(np.sign(x[..., :, None] - y[..., None, :]) + 1).mean((-1, -2)) / 2 for x, y in pairs]
    return np.mean(shares, axis=0)
