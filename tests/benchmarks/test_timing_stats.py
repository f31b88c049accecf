"""Percentiles, intervals and lines against NumPy's own, and against what is known beforehand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.benchmarks.timing_stats import change_of_medians, doubt, line_through, ratio_of_medians, spread

TIMES = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200)


def test_spread_of_known_times():
    times = spread([float(each) for each in range(1, 102)])
    assert (times.runs, times.minimum_ms, times.mean_ms, times.p50_ms) == (101, 1, 51, 51)
    assert (times.p90_ms, times.p95_ms, times.p99_ms) == pytest.approx((91, 96, 100))
    assert times.deviation_percent == pytest.approx(100 * np.std(np.arange(1, 102)) / 51)


@given(TIMES)
def test_percentiles_are_in_order(samples):
    times = spread(samples)
    ordered = [times.minimum_ms, times.p50_ms, times.p90_ms, times.p95_ms, times.p99_ms, max(samples)]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(ordered))


def test_doubt_is_for_times_that_spread():
    assert doubt("latency", spread([10.0, 10.1, 9.9])) is None
    assert doubt("latency", spread([10.0, 20.0])).startswith("latency is doubtful: 2 runs vary by 33%")


def test_a_ratio_and_its_interval():
    random = np.random.default_rng(1)
    # What slows both down in a round is no difference between them.
    common = random.uniform(1, 3, 40)
    slow, fast = 20 * common * random.normal(1, 0.02, 40), 10 * common * random.normal(1, 0.02, 40)
    ratio, low, high = ratio_of_medians(slow, fast)
    assert low < 2 < high and high - low < 0.2
    assert low <= ratio <= high
    assert ratio_of_medians([6.0], [3.0]) == (2, 2, 2)


def test_the_interval_covers_the_truth_in_most_repetitions():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        _, low, high = change_of_medians(random.normal(100, 5, 50), random.normal(110, 5, 50))
        covered += low <= 10 <= high
    assert covered >= 50


def test_no_change_is_no_change():
    same = [5.0, 6.0, 7.0]
    change, low, high = change_of_medians(same, same)
    assert change == 0 and low <= 0 <= high


@given(st.floats(0, 1e9), st.floats(1, 1e5), st.lists(st.integers(1, 10**7), min_size=2, max_size=8, unique=True))
def test_a_line_is_found_again(start, slope, x):
    found_start, found_slope, misfit = line_through(x, [start + slope * each for each in x])
    assert found_slope == pytest.approx(slope, rel=1e-6)
    assert found_start == pytest.approx(start, abs=1e-6 * (start + slope * max(x)))
    assert misfit < 0.01


@pytest.mark.parametrize(
    "call",
    [
        lambda: spread([]),
        lambda: ratio_of_medians([1.0], [1.0, 2.0]),
        lambda: ratio_of_medians([], []),
        lambda: change_of_medians([1.0], []),
        lambda: line_through([1, 1], [2, 3]),
    ],
)
def test_too_little_to_say_anything(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()
