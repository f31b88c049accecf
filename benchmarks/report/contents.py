"""The contents of a report as tables of plain text, the same for HTML, Markdown and the terminal.

A speed is shown only beside its quality: an upscaler that may return any image can be arbitrarily fast. Where a case
has no quality figure, no table shows its speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from overnet.benchmarks.report.table import (
    NOTHING,
    Column,
    Table,
    columns,
    decibels,
    figure,
    memory_text,
    percent,
    size_text,
    table,
)
from overnet.benchmarks.results import BenchmarkRun, Case, CaseResult, QualityFigures

NO_QUALITY = "not shown"
CASE_COLUMNS = columns("Method | Scale | Input | Batch", words="Method")

_WITHOUT_QUALITY = (
    "A speed is shown only beside its quality: where no PSNR could be measured, the speed is left out (not shown)."
)
_TO_REFERENCE, _TO_GROUND_TRUTH = "PSNR to reference, dB", "PSNR to ground truth, dB"


def in_order(results: Iterable[CaseResult]) -> list[CaseResult]:
    """Sort by scale, then size, then batch; otherwise keep the order in which they were measured."""
    return sorted(results, key=lambda each: (each.case.scale, each.case.pixels, each.case.batch))


def quality_words(quality: QualityFigures | None) -> str:
    """Describe every PSNR that was measured."""
    words = []
    if quality is not None and quality.largest_difference_levels == 0:
        words.append("identical to the reference")
    elif quality is not None and quality.reference_psnr_db is not None:
        words.append(f"{quality.reference_psnr_db:.1f} dB to the reference")
    if quality is not None and quality.ground_truth_psnr_db is not None:
        words.append(f"{quality.ground_truth_psnr_db:.2f} dB to the ground truth")
    return ", ".join(words) or "no PSNR"


def case_cells(case: Case) -> list[str]:
    """Return the cells of `CASE_COLUMNS`."""
    batch = str(case.batch) if case.batch > 1 else NOTHING
    return [case.name, f"x{case.scale}", size_text(case.width, case.height), batch]


def _case_table(
    title: str,
    run: BenchmarkRun,
    own_columns: Sequence[Column],
    cells: Callable[[CaseResult], list[str] | None],
    *notes: str,
) -> Table:
    """Make a table with one row per case.

    Args:
        own_columns: besides `CASE_COLUMNS`.
        cells: returns a case's cells of these columns, or None if the table has no row for it.
    """
    rows = [(result, own) for result in in_order(run.results) if (own := cells(result)) is not None]
    hidden = any(NO_QUALITY in own for _, own in rows)
    return table(
        title,
        [*CASE_COLUMNS, *own_columns],
        [case_cells(result.case) + own for result, own in rows],
        *notes,
        _WITHOUT_QUALITY if hidden else "",
    )


def _speed(result: CaseResult, value: float | None) -> str:
    """Return the cell of a figure that reveals a speed."""
    return figure(value) if result.has_quality or value is None else NO_QUALITY


def _to_reference(quality: QualityFigures | None) -> str:
    if quality is None:
        return NOTHING
    return "identical" if quality.largest_difference_levels == 0 else decibels(quality.reference_psnr_db)


def _to_ground_truth(quality: QualityFigures | None) -> str:
    return decibels(quality.ground_truth_psnr_db if quality else None)


def summary_table(run: BenchmarkRun) -> Table:
    """Return the most important figures of each case."""

    def cells(result: CaseResult) -> list[str]:
        memory, power = result.memory, result.power
        if result.error is not None or result.latency is None:
            return ["failed", *[NOTHING] * 7, result.device or NOTHING]
        return [
            _speed(result, result.latency.host.p50_ms),
            _speed(result, result.latency.host.p99_ms),
            _speed(result, result.images_per_second),
            _to_reference(result.quality),
            _to_ground_truth(result.quality),
            memory_text(memory.peak_host_bytes if memory else None),
            memory_text(memory.device_bytes if memory else None),
            _speed(result, power.joules_per_image if power else None),
            result.device or NOTHING,
        ]

    shown = columns(
        f"Median, ms | p99, ms | Images/s | {_TO_REFERENCE} | {_TO_GROUND_TRUTH} | Peak memory | GPU memory | "
        "Energy, J/image | Device",
        words="Device",
    )
    return _case_table("Summary", run, shown, cells, *_quality_notes(run))


def _quality_notes(run: BenchmarkRun) -> list[str]:
    qualities = [result.quality for result in run.results if result.quality is not None]
    references = dict.fromkeys(
        each.reference for each in qualities if each.reference and each.largest_difference_levels is not None
    )
    ground_truths = dict.fromkeys(each.ground_truth for each in qualities if each.ground_truth)
    named = {"Reference": references, "Ground truth": ground_truths}
    return [f"{name}: {', '.join(words)}." for name, words in named.items() if words]


def latency_table(run: BenchmarkRun) -> Table:
    """Return the percentiles of the latency, from host array to host array."""

    def cells(result: CaseResult) -> list[str] | None:
        if result.latency is None:
            return None
        host = result.latency.host
        times = [host.p50_ms, host.p90_ms, host.p95_ms, host.p99_ms, host.mean_ms, host.minimum_ms]
        return [
            *(_speed(result, each) for each in times),
            percent(host.deviation_percent),
            str(host.runs),
            _speed(result, result.images_per_second),
        ]

    shown = columns("Median, ms | p90, ms | p95, ms | p99, ms | Mean, ms | Minimum, ms | Deviation | Runs | Images/s")
    note = (
        "Milliseconds per batch, from an array in host memory to an array in host memory; images per second "
        "with as many images in flight as the method takes."
    )
    return _case_table("Latency and throughput", run, shown, cells, note)


def gpu_table(run: BenchmarkRun) -> Table:
    """Return how the latency on a GPU divides into copying and computing."""

    def cells(result: CaseResult) -> list[str] | None:
        latency = result.latency
        if latency is None or latency.compute is None:
            return None
        parts = (latency.copy_in, latency.compute, latency.copy_out, latency.host)
        return [_speed(result, part.p50_ms if part else None) for part in parts]

    shown = columns("Copy in, ms | Compute, ms | Copy out, ms | Host, ms")
    return _case_table("GPU time", run, shown, cells, "Medians by CUDA events; Host: by the host's clock.")


def start_table(run: BenchmarkRun) -> Table:
    """Return the time until the first image is done."""

    def cells(result: CaseResult) -> list[str] | None:
        if result.load_ms is None and result.first_ms is None:
            return None
        return [_speed(result, result.load_ms), _speed(result, result.first_ms)]

    shown = columns("Load, ms | First image, ms")
    return _case_table("Start-up", run, shown, cells, "Load: from the model's file to a method that is ready.")


def memory_table(run: BenchmarkRun) -> Table:
    """Return the memory that each case takes."""

    def cells(result: CaseResult) -> list[str] | None:
        memory = result.memory
        if memory is None:
            return None
        return [
            memory_text(memory.peak_host_bytes),
            memory_text(memory.before_host_bytes),
            memory_text(memory.device_bytes),
            memory_text(memory.activation_bytes),
            figure(memory.bytes_per_input_pixel),
        ]

    shown = columns("Process peak | Before loading | GPU memory | Activations | Per input pixel, bytes")
    note = "Each case in a process of its own. Per input pixel: what was added after loading began."
    return _case_table("Memory", run, shown, cells, note)


def quality_table(run: BenchmarkRun) -> Table:
    """Return how close the images are to the reference and to the ground truth."""

    def cells(result: CaseResult) -> list[str] | None:
        quality = result.quality
        if quality is None:
            return None
        levels, ssim = quality.largest_difference_levels, quality.ground_truth_ssim
        return [
            _to_reference(quality),
            NOTHING if levels is None else str(levels),
            _to_ground_truth(quality),
            NOTHING if ssim is None else f"{ssim:.4f}",
        ]

    shown = columns(f"{_TO_REFERENCE} | Largest difference, levels | {_TO_GROUND_TRUTH} | SSIM")
    return _case_table("Quality", run, shown, cells, *_quality_notes(run))


def peak_table(run: BenchmarkRun) -> Table:
    """Return how much of the machine's measured peak each case uses."""

    def cells(result: CaseResult) -> list[str] | None:
        if result.multiply_accumulates is None:
            return None
        share = None if result.share_of_peak is None else 100 * result.share_of_peak
        shown = percent(share) if result.has_quality or share is None else NO_QUALITY
        return [figure(result.multiply_accumulates / 1e9), shown]

    shown = columns("Multiply-accumulates, G/image | Share of peak")
    notes = [
        f"{peak.device}: at most {figure(peak.gflops_fp32)} GFLOP/s in float32 and "
        f"{figure(peak.copy_gigabytes_per_second)} GB/s, measured by {peak.measured_by}."
        for peak in run.peaks
    ]
    return _case_table("Share of the machine's measured peak", run, shown, cells, *notes)


def power_table(run: BenchmarkRun) -> Table:
    """Return the power drawn, the clocks and the temperatures."""

    def cells(result: CaseResult) -> list[str] | None:
        power = result.power
        if power is None:
            return None
        return [
            figure(power.mean_watts),
            figure(power.largest_watts),
            figure(power.idle_watts),
            _speed(result, power.joules_per_image),
            ", ".join(f"{name} {clock:.0f}" for name, clock in power.clocks_mhz.items()) or NOTHING,
            ", ".join(f"{name} {degrees:.0f}" for name, degrees in power.temperatures_celsius.items()) or NOTHING,
            power.power_mode or NOTHING,
            NOTHING if power.throttled is None else ", ".join(power.throttled) or "no",
        ]

    shown = columns(
        "Mean, W | Largest, W | Idle, W | Energy, J/image | Clocks, MHz | Highest temperature, °C | "
        "Power mode | Throttled",
        words="Clocks, MHz | Highest temperature, °C | Power mode | Throttled",
    )
    powers = [result.power for result in run.results if result.power is not None]
    covered = dict.fromkeys(f"{power.source} covers {power.covers}." for power in powers)
    return _case_table("Power and temperature", run, shown, cells, *covered)


def sustained_table(run: BenchmarkRun) -> Table:
    """Return how the throughput changes while a case runs without pause."""

    def cells(result: CaseResult) -> list[str] | None:
        tenths = result.sustained.images_per_second if result.sustained else []
        if result.sustained is None or not tenths:
            return None
        change = 100 * (tenths[-1] / tenths[0] - 1) if tenths[0] else None
        return [
            figure(result.sustained.seconds),
            *(_speed(result, each) for each in (tenths[0], tenths[-1], min(tenths))),
            percent(change, signed=True) if result.has_quality or change is None else NO_QUALITY,
        ]

    shown = columns(
        "Duration, s | First tenth, images/s | Last tenth, images/s | Slowest tenth, images/s | Last relative to first"
    )
    return _case_table("Sustained throughput", run, shown, cells)


def ratio_table(run: BenchmarkRun) -> Table:
    """Return the speed of each case relative to its baselines."""
    results = {result.case: result for result in run.results}
    rows = []
    hidden = False
    for ratio in sorted(run.ratios, key=lambda each: (each.case.scale, each.case.pixels, each.case.batch)):
        both = [results.get(ratio.case), results.get(ratio.baseline)]
        own, baseline = (result.quality if result else None for result in both)
        if all(result is not None and result.has_quality for result in both):
            figures = [f"{figure(ratio.times_as_fast)}x", f"{figure(ratio.low)} to {figure(ratio.high)}"]
        else:
            figures, hidden = [NO_QUALITY, NO_QUALITY], True
        psnr = [_to_reference(own), _to_ground_truth(own), _to_ground_truth(baseline)]
        rows.append([*case_cells(ratio.case), ratio.baseline.name, *figures, str(ratio.rounds), *psnr])
    shown = [
        *CASE_COLUMNS,
        *columns(
            f"Baseline | Speed-up | 95% interval | Rounds | {_TO_REFERENCE} | {_TO_GROUND_TRUTH} | "
            "Baseline's PSNR to ground truth, dB",
            words="Baseline",
        ),
    ]
    note = "Ratio of median times, measured in turns in one process. Below 1x: slower; around 1: no difference."
    return table("Compared with baselines", shown, rows, note, _WITHOUT_QUALITY if hidden else "")


def growth_table(run: BenchmarkRun) -> Table:
    """Return how the memory grows with the size of the image."""
    rows = [
        [
            f"{growth.method} {growth.precision}",
            f"x{growth.scale}",
            memory_text(growth.fixed_bytes),
            figure(growth.bytes_per_pixel),
            percent(growth.largest_misfit_percent),
            f"{growth.largest_pixels / 1e6:,.1f}",
            memory_text(growth.available_bytes),
        ]
        for growth in run.growth
    ]
    shown = columns(
        "Method | Scale | Fixed | Per input pixel, bytes | Misfit | Largest input, megapixels | Available",
        words="Method",
    )
    note = "A line fitted to the measured sizes. Largest input: the size at which it reaches the available memory."
    return table("Memory by image size", shown, rows, note)


def video_table(run: BenchmarkRun) -> Table:
    """Return the frame rates of a video, from file to file and by stage."""
    known = {
        (result.case.method, result.case.precision, result.case.scale): result.quality
        for result in run.results
        if result.has_quality
    }
    rows = []
    for video in run.videos:
        quality = known.get((video.method, video.precision, video.scale))
        rates = (video.decode_fps, video.upscale_fps, video.encode_fps, video.total_fps)
        rows.append(
            [
                f"{video.method} {video.precision}",
                f"x{video.scale}",
                size_text(video.width, video.height),
                str(video.frames),
                *(NO_QUALITY if quality is None else figure(rate) for rate in rates),
                video.slowest_stage,
                video.codec,
                _to_reference(quality),
                _to_ground_truth(quality),
            ]
        )
    shown = [
        *CASE_COLUMNS[:3],
        *columns(
            "Frames | Decode, fps | Upscale, fps | Encode, fps | Whole, fps | Slowest stage | Codec | "
            f"{_TO_REFERENCE} | {_TO_GROUND_TRUTH}",
            words="Slowest stage | Codec",
        ),
    ]
    note = "Each stage by itself, and the whole from file to file."
    return table("Video", shown, rows, note, _WITHOUT_QUALITY if any(NO_QUALITY in row for row in rows) else "")


def all_tables(run: BenchmarkRun) -> list[Table]:
    """Return every table that has a row, in the order of the report."""
    makers = (
        summary_table,
        ratio_table,
        latency_table,
        gpu_table,
        start_table,
        quality_table,
        memory_table,
        growth_table,
        peak_table,
        power_table,
        sustained_table,
        video_table,
    )
    return [made for made in (maker(run) for maker in makers) if made.rows]


def warnings_of(run: BenchmarkRun) -> list[str]:
    """Return what makes figures doubtful, one line each, with the case it concerns."""
    return [f"{result.case.title}: {warning}" for result in in_order(run.results) for warning in result.warnings]


def errors_of(run: BenchmarkRun) -> list[str]:
    """Return the cases that failed and why, one line each."""
    return [f"{result.case.title}: {result.error}" for result in in_order(run.results) if result.error is not None]
