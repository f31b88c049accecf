"""What repeated measurements say, and how far it can be trusted. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from overnet.benchmarks.results import Spread

# Times of a quiet machine spread by less; trtexec warns from 2.5% on, for a GPU's compute time alone.
DOUBTFUL_PERCENT = 10.0

_RESAMPLES = 2000


def spread(samples_ms: Sequence[float]) -> Spread:
    """Summarise times.

    Args:
        samples_ms: one a run, in milliseconds; at least one.

    Raises:
        ValueError: there is none.
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
    """A warning where times spread so much that a figure is doubtful; None where they do not.

    Args:
        what: the figure, as the sentence's beginning.
        limit_percent: from which standard deviation on.
    """
    if times.deviation_percent <= limit_percent:
        return None
    return (
        f"{what} is doubtful: {times.runs} runs spread by {times.deviation_percent:.0f}% "
        f"({times.minimum_ms:.3g} to {times.p99_ms:.3g} ms); is the machine busy, or hot?"
    )


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two medians, with its 95% confidence interval by the bootstrap.

    The two are measured in rounds, each round one of both, so that rounds are drawn and not single times: what slows a
    round down slows both (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).

    Args:
        numerator, denominator: one value a round, in the order of the rounds.

    Returns:
        The ratio, and the interval's two ends. With one round, all three are the same.

    Raises:
        ValueError: they are not of the same length, or empty.
    """
    if len(numerator) != len(denominator) or not len(numerator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds; as many of both are needed")
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    drawn = np.random.default_rng(0).integers(len(above), size=(_RESAMPLES, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(above) / np.median(below)), float(low), float(high)


def change_of_medians(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """By how many percent a median changed from one run to another, with the 95% confidence interval by the bootstrap.

    Args:
        old, new: independent times, at least one each.

    Returns:
        The change in percent (above 0: longer), and the interval's two ends.

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
        Start, slope, and the largest misfit of a point as a percentage of its `y`.

    Raises:
        ValueError: there are not two different x.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError("a line takes at least two points that differ in x")
    slope, start = (float(each) for each in np.polyfit(np.asarray(x, np.float64), np.asarray(y, np.float64), 1))
    misfits = [100 * abs(start + slope * at - value) / value for at, value in zip(x, y, strict=True) if value]
    return start, slope, max(misfits, default=0.0)
