"""Statistics of repeated measurements: percentiles, bootstrap intervals, line fits. Needs only NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The deviation on an idle machine is smaller; trtexec warns from 2.5% on, but only for a GPU's compute time.
DOUBTFUL_PERCENT = 10.0

_RESAMPLES = 2000


@dataclass(frozen=True)
class Spread:
    """The distribution of repeated times, in milliseconds per batch.

    Attributes:
        runs: how many times were measured.
        p50_ms, p90_ms, p95_ms, p99_ms: percentiles, interpolated linearly; p50 is the median.
        deviation_percent: standard deviation relative to the mean.
    """

    runs: int
    mean_ms: float
    minimum_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    deviation_percent: float


def spread(samples_ms: Sequence[float]) -> Spread:
    """Summarise times in milliseconds.

    Raises:
        ValueError: `samples_ms` is empty.
    """
    if not len(samples_ms):
        raise ValueError("there is no run to summarise")
    samples = np.asarray(samples_ms, np.float64)
    p50, p90, p95, p99 = (float(each) for each in np.percentile(samples, [50, 90, 95, 99]))
    mean = float(samples.mean())
    return Spread(
        runs=len(samples),
        mean_ms=mean,
        minimum_ms=float(samples.min()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        deviation_percent=100 * float(samples.std()) / mean if mean else 0.0,
    )


def doubt(what: str, times: Spread, *, limit_percent: float = DOUBTFUL_PERCENT) -> str | None:
    """Return a warning if times vary so much that a figure is doubtful, else None.

    Args:
        what: the figure, as the beginning of the sentence.
        limit_percent: the largest relative standard deviation without a warning.
    """
    if times.deviation_percent <= limit_percent:
        return None
    return (
        f"{what} is doubtful: {times.runs} runs vary by {times.deviation_percent:.0f}% "
        f"({times.minimum_ms:.3g} to {times.p99_ms:.3g} ms); is the machine busy, or hot?"
    )


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two medians, with its 95% confidence interval by the bootstrap.

    Both are measured once per round, and rounds are resampled instead of single times, because a disturbance slows down
    both values of a round (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).

    Args:
        numerator, denominator: one value per round, in the order of the rounds.

    Returns:
        The ratio and the two ends of the interval; all three are equal if there is one round.

    Raises:
        ValueError: the lengths differ, or are 0.
    """
    if len(numerator) != len(denominator) or not len(numerator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds; as many of both are needed")
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    drawn = np.random.default_rng(0).integers(len(above), size=(_RESAMPLES, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(above) / np.median(below)), float(low), float(high)


def change_of_medians(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """Return the change of a median between two runs in percent, with its 95% confidence interval by the bootstrap.

    Args:
        old, new: independent times, at least one each.

    Returns:
        The change (positive if longer) and the two ends of the interval.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(old) or not len(new):
        raise ValueError("there is no run to compare")
    random = np.random.default_rng(0)
    before, after = np.asarray(old, np.float64), np.asarray(new, np.float64)
    drawn_before = np.median(before[random.integers(len(before), size=(_RESAMPLES, len(before)))], axis=1)
    drawn_after = np.median(after[random.integers(len(after), size=(_RESAMPLES, len(after)))], axis=1)
    low, high = np.percentile(100 * (drawn_after / drawn_before - 1), [2.5, 97.5])
    return 100 * float(np.median(after) / np.median(before) - 1), float(low), float(high)


def line_through(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Fit ``y = start + slope * x`` by least squares.

    Returns:
        Start, slope, and the largest deviation of a point in percent of its `y`.

    Raises:
        ValueError: there are fewer than two different `x`.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError("a line takes at least two points that differ in x")
    slope, start = (float(each) for each in np.polyfit(np.asarray(x, np.float64), np.asarray(y, np.float64), 1))
    misfits = [100 * abs(start + slope * at - value) / value for at, value in zip(x, y, strict=True) if value]
    return start, slope, max(misfits, default=0.0)
