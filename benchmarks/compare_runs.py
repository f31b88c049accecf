"""Compare two runs of the benchmark: what changed by more than the runs' own noise, and whether that is a failure.

The times of one process are not independent: another process or a hot chip slows down many consecutive runs. An
interval from resampling single times would therefore be far too narrow. So the times of each run are divided into
blocks of consecutive times, and each block is represented by its median:

* the 95% interval of the change is computed by resampling the medians of the blocks;
* the noise is the range of the medians of one run's blocks, the larger of the two runs': the drift of the machine;
* changes below `SMALLEST_CHANGE_PERCENT` never count, because two processes of the same program differ by that much
  (memory layout, page mapping), which a single run cannot show.

A change counts if the interval excludes 0 and the change is larger than the noise. A slow-down smaller than the
machine's drift is thus not detected; the table shows the noise beside each change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from overnet.benchmarks.results import BenchmarkRun, Case, CaseResult, QualityFigures
from overnet.benchmarks.timing_stats import change_of_medians

BLOCKS = 10
SMALLEST_CHANGE_PERCENT = 1.0
LARGEST_LOSS_DB = 0.1
"""A larger loss of PSNR is a failure: 0.1 dB separates two methods in the papers' tables."""

# Allocators request memory in large blocks, and each thread of a library has its own heap.
MEMORY_NOISE_PERCENT = 2.0

# With fewer times, the noise is unknown.
_FEWEST_RUNS = 5


@dataclass(frozen=True)
class Change:
    """The change of one figure of a case.

    Attributes:
        old, new: the figure, in the unit of the results.
        noise_percent: changes up to this size do not count; infinite if the noise is unknown.
        more_is_worse: true for a time and for memory, false for a speed.
        low, high: the 95% interval of the change in percent; None for a single figure without samples.
    """

    old: float
    new: float
    noise_percent: float
    more_is_worse: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def percent(self) -> float:
        """Return the change from old to new; positive if it grew."""
        if self.old == self.new:
            return 0.0
        return 100 * (self.new / self.old - 1) if self.old else math.inf

    @property
    def counts(self) -> bool:
        """Whether the change is larger than the noise, and its interval excludes 0."""
        certain = self.low is None or self.high is None or self.low > 0 or self.high < 0
        return certain and abs(self.percent) > self.noise_percent

    def is_worse_by(self, limit_percent: float) -> bool:
        """Whether the change counts, and the figure became worse by more than the limit."""
        worse = self.percent if self.more_is_worse else -self.percent
        return self.counts and worse > limit_percent


@dataclass(frozen=True)
class CaseComparison:
    """One case in two runs.

    Attributes:
        latency: of the median, in milliseconds; None if a run may not show its times because it has no PSNR.
        throughput: in images per second.
        host_memory, device_memory: the peaks, in bytes.
        reference_change_db, ground_truth_change_db: of the PSNR; infinite if it was or became identical to the
            reference.
        regression: what became worse by more than allowed, in one line; None if nothing did, and for baselines.
    """

    case: Case
    latency: Change | None
    throughput: Change | None
    host_memory: Change | None
    device_memory: Change | None
    reference_change_db: float | None
    ground_truth_change_db: float | None
    regression: str | None = None


@dataclass(frozen=True)
class RunComparison:
    """The comparison of two runs.

    Attributes:
        fail_above_percent: the allowed change; None if nothing is a failure.
        cases: those for which both runs have figures.
        missing, added: cases of only the old run, and of only the new run.
        failures: cases that failed in the new run, with the reason.
        regressions: what became worse by more than allowed, one line each.
        notes: other differences of the runs that may explain a change, one line each.
    """

    old_started: str
    new_started: str
    fail_above_percent: float | None
    cases: list[CaseComparison]
    missing: list[Case]
    added: list[Case]
    failures: list[tuple[Case, str]]
    regressions: list[str]
    notes: list[str]


def compare(old: BenchmarkRun, new: BenchmarkRun, *, fail_above_percent: float | None) -> RunComparison:
    """Compare two runs, case by case.

    Args:
        old, new: the runs. Cases match if method, precision, scale, size and batch are equal.
        fail_above_percent: a case whose time or memory grew, or whose throughput shrank, by more than this and by more
            than the noise is a failure; so are a loss of more than `LARGEST_LOSS_DB` of PSNR, a case that fails now but
            did not before, and runs without a common case. Baselines are never failures. None: nothing is a failure.
    """
    before = {result.case: result for result in old.results}
    after = {result.case: result for result in new.results}
    shared = [case for case in after if case in before]
    usable = [case for case in shared if before[case].error is None and after[case].error is None]
    cases = [_compare_case(before[case], after[case], fail_above_percent) for case in usable]
    failures = [(case, after[case].error or "") for case in after if after[case].error is not None]
    regressions: list[str] = []
    if fail_above_percent is not None:
        regressions = [each.regression for each in cases if each.regression is not None]
        regressions += [
            f"{case.title}: it fails now ({reason})"
            for case, reason in failures
            if case.kind == "backend" and case in before and before[case].error is None
        ]
        if not usable and any(result.error is None for result in old.results):
            regressions.append("no case of the old run could be compared")
    notes = _differences(old, new)
    notes += [
        f"{each.case.title}: this baseline's time changed by {each.latency.percent:+.1f}%; is the machine as it was?"
        for each in cases
        if each.case.kind == "baseline" and each.latency is not None and each.latency.counts
    ]
    for case in usable:
        notes += _case_differences(before[case], after[case])
    return RunComparison(
        old_started=old.started,
        new_started=new.started,
        fail_above_percent=fail_above_percent,
        cases=cases,
        missing=[case for case in before if case not in after],
        added=[case for case in after if case not in before],
        failures=failures,
        regressions=regressions,
        notes=notes,
    )


def _compare_case(old: CaseResult, new: CaseResult, limit_percent: float | None) -> CaseComparison:
    latency = throughput = None
    if old.latency is not None and new.latency is not None and old.speed_is_shown and new.speed_is_shown:
        latency = compare_times(old.latency.samples_ms, new.latency.samples_ms)
        if old.images_per_second is not None and new.images_per_second is not None:
            # The throughput is a single figure; its noise is taken to be that of the latency.
            throughput = Change(
                old.images_per_second, new.images_per_second, latency.noise_percent, more_is_worse=False
            )
    host = device = None
    if old.memory is not None and new.memory is not None:
        host = Change(old.memory.peak_host_bytes, new.memory.peak_host_bytes, MEMORY_NOISE_PERCENT)
        if old.memory.device_bytes is not None and new.memory.device_bytes is not None:
            device = Change(old.memory.device_bytes, new.memory.device_bytes, MEMORY_NOISE_PERCENT)
    to_reference = _change_db(_reference_db(old.quality), _reference_db(new.quality))
    to_ground_truth = None
    # The PSNR of other images cannot be compared.
    if old.quality is not None and new.quality is not None and old.quality.ground_truth == new.quality.ground_truth:
        to_ground_truth = _change_db(old.quality.ground_truth_psnr_db, new.quality.ground_truth_psnr_db)
    compared = CaseComparison(new.case, latency, throughput, host, device, to_reference, to_ground_truth)
    # A baseline is no regression of this program; its change means that the machine changed.
    if limit_percent is None or new.case.kind == "baseline" or not (worse := _what_is_worse(compared, limit_percent)):
        return compared
    return replace(compared, regression=f"{new.case.title}: {', '.join(worse)}")


def _what_is_worse(compared: CaseComparison, limit_percent: float) -> list[str]:
    """List what became worse by more than allowed, a few words each."""
    figures = (
        ("slower", compared.latency),
        ("fewer images per second", compared.throughput),
        ("more host memory", compared.host_memory),
        ("more GPU memory", compared.device_memory),
    )
    worse = [
        f"{abs(change.percent):.1f}% {words} (noise {change.noise_percent:.1f}%)"
        for words, change in figures
        if change is not None and change.is_worse_by(limit_percent)
    ]
    for words, change_db in (
        ("reference", compared.reference_change_db),
        ("ground truth", compared.ground_truth_change_db),
    ):
        if change_db is not None and change_db < -LARGEST_LOSS_DB:
            lost = "no longer identical" if math.isinf(change_db) else f"{-change_db:.2f} dB of PSNR lost"
            worse.append(f"{lost} to the {words}")
    return worse


def compare_times(old_ms: Sequence[float], new_ms: Sequence[float]) -> Change:
    """Compare the median times of two runs; see the module's docstring.

    Args:
        old_ms, new_ms: times in milliseconds in the order of measurement; at least one each.

    Raises:
        ValueError: one of them is empty.
    """
    _, low, high = change_of_medians(_block_medians(old_ms).tolist(), _block_medians(new_ms).tolist())
    noise = max(_drift_percent(old_ms), _drift_percent(new_ms), SMALLEST_CHANGE_PERCENT)
    if min(len(old_ms), len(new_ms)) < _FEWEST_RUNS:
        noise = math.inf
    return Change(float(np.median(old_ms)), float(np.median(new_ms)), noise, low=low, high=high)


def _block_medians(times_ms: Sequence[float]) -> NDArray[np.float64]:
    if not len(times_ms):
        raise ValueError("there is no run to compare")
    blocks = np.array_split(np.asarray(times_ms, np.float64), min(BLOCKS, len(times_ms)))
    return np.array([np.median(block) for block in blocks])


def _drift_percent(times_ms: Sequence[float]) -> float:
    medians = _block_medians(times_ms)
    middle = float(np.median(medians))
    return 100 * float(np.ptp(medians)) / middle if middle else 0.0


def _reference_db(quality: QualityFigures | None) -> float | None:
    """Return the PSNR to the network's exact result, infinite if the images are identical."""
    if quality is None:
        return None
    return math.inf if quality.largest_difference_levels == 0 else quality.reference_psnr_db


def _change_db(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return None
    return 0.0 if old == new else new - old


def _differences(old: BenchmarkRun, new: BenchmarkRun) -> list[str]:
    """List the differences between two runs besides their figures."""

    def facts(run: BenchmarkRun) -> dict[str, str]:
        machine = run.machine
        return {
            "machine": machine.name,
            "system": machine.system,
            "processor": machine.processor,
            "cores": str(machine.cores),
            "GPUs": ", ".join(machine.gpus),
            **{f"version of {name}": version for name, version in machine.versions.items()},
            **{f"setting {name}": value for name, value in machine.settings.items()},
            **{f"option {name}": value for name, value in run.options.items()},
        }

    were, are = facts(old), facts(new)
    differing = [name for name in {**were, **are} if were.get(name) != are.get(name)]
    return [f"{name}: {were.get(name) or 'none'} -> {are.get(name) or 'none'}" for name in differing]


def _case_differences(old: CaseResult, new: CaseResult) -> list[str]:
    title = new.case.title
    facts = [("device", old.device, new.device), ("model", old.model, new.model)]
    if old.quality is not None and new.quality is not None:
        facts.append(("ground truth", old.quality.ground_truth or "", new.quality.ground_truth or ""))
    notes = [f"{title}: {what} {was or 'none'} -> {now or 'none'}" for what, was, now in facts if was != now]
    return notes + [
        f"{title}: the {which} run has no PSNR, so its times are not compared"
        for which, result in (("old", old), ("new", new))
        if not result.has_quality
    ]
