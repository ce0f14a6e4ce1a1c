"""Intervals agree with rliable, whose numbers stand here, and with what can be worked out by hand."""

import numpy as np
import pytest

from scripts.analysis import intervals
from scripts.analysis.tables import worst_count

ONE = np.array(
    [[0.56, 0.4, 0.32, 0.53], [0.66, 0.21, 0.81, 0.69], [0.21, 0.47, 0.83, 0.24], [0.18, 0.5, 0.45, 0.28],
     [0.81, 0.11, 0.69, 0.78]]
)  # fmt: skip
OTHER = np.array([[0.55, 0.23, 0.36, 0.44], [0.11, 0.79, 0.5, 0.49], [0.3, 0.52, 0.05, 0.42]])
# rliable 1.2.0: 50,000 resamples for IQM and mean, 20,000 for the probability of improvement
RLIABLE = [
    (intervals.iqm, intervals.iqm_interval, (ONE,), 0.486, (0.348, 0.613)),
    (intervals.mean, intervals.mean_interval, (ONE,), 0.4865, (0.395, 0.5755)),
    (intervals.iqm, intervals.iqm_interval, (OTHER,), 0.41833333, (0.29666667, 0.49833333)),
    (intervals.mean, intervals.mean_interval, (OTHER,), 0.39666667, (0.29833333, 0.49333333)),
    (intervals.improvement, intervals.improvement_interval, (ONE, OTHER), 0.58333333, (0.4, 0.76666667)),
]


@pytest.mark.parametrize(("point", "interval", "scores", "number", "edges"), RLIABLE)
def test_it_agrees_with_rliable(point, interval, scores, number, edges):
    assert point(*scores) == pytest.approx(number, abs=1e-8)
    assert interval(*scores) == pytest.approx(edges, abs=0.02)  # a step of the discrete P is 1/60
    assert interval(*scores) == interval(*scores)


def test_a_single_seed_has_no_interval():
    one = ONE[:1]
    assert intervals.iqm_interval(one) is intervals.mean_interval(one) is None
    assert intervals.improvement_interval(one, OTHER) is intervals.improvement_interval(OTHER, one) is None
    assert intervals.paired_difference(one, OTHER[:1])[1] is None


def test_probability_of_improvement_at_its_ends():
    assert intervals.improvement(ONE + 1, OTHER) == 1
    assert intervals.improvement(OTHER, OTHER) == 0.5
    assert intervals.improvement(ONE, OTHER) + intervals.improvement(OTHER, ONE) == pytest.approx(1)


def test_equal_seeds_leave_nothing_to_doubt():
    scores = np.full((3, 2), 0.3)
    assert intervals.mean_interval(scores) == pytest.approx((0.3, 0.3))
    assert intervals.iqm_interval(scores) == pytest.approx((0.3, 0.3))


def test_the_paired_interval_at_hand_computed_values():
    baseline = np.array([[0.1, 0.3], [0.2, 0.2], [0.9, 0.5]])
    scores = baseline + np.array([[0.1], [0.2], [0.3]])  # differences of mean 0.2, deviation 0.1
    centre, interval = intervals.paired_difference(scores, baseline)
    half = 4.30265 * 0.1 / 3**0.5  # t of 2 degrees of freedom
    assert centre == pytest.approx(0.2)
    assert interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-5)


def test_what_pairs_share_cancels():
    rng = np.random.default_rng(0)
    baseline = rng.random((4, 3)) + np.arange(4.0)[:, None]  # seeds that are far apart
    _, (low, high) = intervals.paired_difference(baseline + 0.1, baseline)
    assert low == pytest.approx(high) == pytest.approx(0.1)


def test_the_worst_tasks_are_each_seeds_own():
    scores = np.array([[0.0, 1.0, 0.2, 0.9], [1.0, 0.1, 0.3, 0.8]])
    assert intervals.worst(scores, 2) == pytest.approx((0.0 + 0.2 + 0.1 + 0.3) / 4)
    assert intervals.worst(scores, 4) == pytest.approx(intervals.mean(scores))
    assert [worst_count(tasks) for tasks in (1, 2, 4, 10, 25, 50)] == [1, 1, 1, 3, 7, 10]
