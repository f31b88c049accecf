"""The contents of a report as tables of plain text, the same for HTML, Markdown and the terminal.

A speed is shown only beside its quality: an upscaler that may return any image can be arbitrarily fast. Where a case
has no quality figure, no table shows its speed.
"""

from collections.abc import Callable, Iterable
from functools import partial

from overnet.benchmarks.report.table import NOTHING, Table, decibels, figure, memory_text, percent, size_text, table
from overnet.benchmarks.results import BenchmarkRun, Case, CaseResult, QualityFigures
from overnet.words import counted

NO_QUALITY = "not shown"

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
        words.append(f"{decibels(quality.reference_psnr_db)} dB to the reference")
    if quality is not None and quality.ground_truth_psnr_db is not None:
        words.append(f"{decibels(quality.ground_truth_psnr_db)} dB to the ground truth")
    return ", ".join(words) or "no PSNR"


def case_cells(case: Case) -> dict[str, str]:
    """Return the cells that name a case, by heading."""
    return {
        "Method": case.name,
        "Scale": f"x{case.scale}",
        "Input": size_text(case.width, case.height),
        "Batch": str(case.batch) if case.batch > 1 else NOTHING,
    }


def _case_table(
    title: str, run: BenchmarkRun, cells: Callable[[CaseResult], dict[str, str] | None], *notes: str
) -> Table:
    """Make a table with one row per case; `cells` returns a case's cells by heading, or None if it has no row."""
    rows = [{**case_cells(result.case), **own} for result in in_order(run.results) if (own := cells(result))]
    return _speed_table(title, rows, *notes)


def _speed_table(title: str, rows: list[dict[str, str]], *notes: str) -> Table:
    """Make a table; where it lacks a speed, with a note that says why."""
    return table(title, rows, *notes, *[_WITHOUT_QUALITY for row in rows if NO_QUALITY in row.values()][:1])


def _speed(result: CaseResult, value: float | None, formatted: Callable[[float | None], str] = figure) -> str:
    """Return the cell of a figure that reveals a speed."""
    return formatted(value) if result.has_quality or value is None else NO_QUALITY


def _psnr_cells(quality: QualityFigures | None) -> dict[str, str]:
    if quality is None:
        return {_TO_REFERENCE: NOTHING, _TO_GROUND_TRUTH: NOTHING}
    identical = quality.largest_difference_levels == 0
    return {
        _TO_REFERENCE: "identical" if identical else decibels(quality.reference_psnr_db),
        _TO_GROUND_TRUTH: decibels(quality.ground_truth_psnr_db),
    }


def summary_table(run: BenchmarkRun) -> Table:
    """Return the most important figures of each case."""

    def cells(result: CaseResult) -> dict[str, str]:
        memory, power = result.memory, result.power
        if result.error is not None or result.latency is None:
            return {"Median, ms": "failed", "Device": result.device or NOTHING}
        return {
            "Median, ms": _speed(result, result.latency.host.p50_ms),
            "p99, ms": _speed(result, result.latency.host.p99_ms),
            "Images/s": _speed(result, result.images_per_second),
            **_psnr_cells(result.quality),
            "Peak memory": memory_text(memory.peak_host_bytes if memory else None),
            "GPU memory": memory_text(memory.device_bytes if memory else None),
            "Energy, J/image": _speed(result, power.joules_per_image if power else None),
            "Device": result.device or NOTHING,
        }

    return _case_table("Summary", run, cells, *_quality_notes(run))


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

    def cells(result: CaseResult) -> dict[str, str] | None:
        if result.latency is None:
            return None
        host = result.latency.host
        return {
            "Median, ms": _speed(result, host.p50_ms),
            "p90, ms": _speed(result, host.p90_ms),
            "p95, ms": _speed(result, host.p95_ms),
            "p99, ms": _speed(result, host.p99_ms),
            "Mean, ms": _speed(result, host.mean_ms),
            "Minimum, ms": _speed(result, host.minimum_ms),
            "Deviation": percent(host.deviation_percent),
            "Runs": str(host.runs),
            "Images/s": _speed(result, result.images_per_second),
        }

    note = (
        "Milliseconds per batch, from an array in host memory to an array in host memory; images per second "
        "with as many images in flight as the method takes."
    )
    return _case_table("Latency and throughput", run, cells, note)


def gpu_table(run: BenchmarkRun) -> Table:
    """Return how the latency on a GPU divides into copying and computing."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        latency = result.latency
        if latency is None or latency.compute is None:
            return None
        parts = {
            "Copy in, ms": latency.copy_in,
            "Compute, ms": latency.compute,
            "Copy out, ms": latency.copy_out,
            "Host, ms": latency.host,
        }
        return {heading: _speed(result, part.p50_ms if part else None) for heading, part in parts.items()}

    return _case_table("GPU time", run, cells, "Medians by CUDA events; Host: by the host's clock.")


def start_table(run: BenchmarkRun) -> Table:
    """Return the time until the first image is done."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        if result.load_ms is None and result.first_ms is None:
            return None
        return {"Load, ms": _speed(result, result.load_ms), "First image, ms": _speed(result, result.first_ms)}

    return _case_table("Start-up", run, cells, "Load: from the model's file to a method that is ready.")


def memory_table(run: BenchmarkRun) -> Table:
    """Return the memory that each case takes."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        if (memory := result.memory) is None:
            return None
        return {
            "Process peak": memory_text(memory.peak_host_bytes),
            "Before loading": memory_text(memory.before_host_bytes),
            "GPU memory": memory_text(memory.device_bytes),
            "Activations": memory_text(memory.activation_bytes),
            "Per input pixel, bytes": figure(memory.bytes_per_input_pixel),
        }

    note = "Each case in a process of its own. Per input pixel: what was added after loading began."
    return _case_table("Memory", run, cells, note)


def quality_table(run: BenchmarkRun) -> Table:
    """Return how close the images are to the reference and to the ground truth."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        if (quality := result.quality) is None:
            return None
        levels, ssim, psnr = quality.largest_difference_levels, quality.ground_truth_ssim, _psnr_cells(quality)
        return {
            _TO_REFERENCE: psnr[_TO_REFERENCE],
            "Largest difference, levels": NOTHING if levels is None else str(levels),
            _TO_GROUND_TRUTH: psnr[_TO_GROUND_TRUTH],
            "SSIM": NOTHING if ssim is None else f"{ssim:.4f}",
        }

    return _case_table("Quality", run, cells, *_quality_notes(run))


def peak_table(run: BenchmarkRun) -> Table:
    """Return how much of the machine's measured peak each case uses."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        if result.multiply_accumulates is None:
            return None
        share = None if result.share_of_peak is None else 100 * result.share_of_peak
        return {
            "Multiply-accumulates, G/image": figure(result.multiply_accumulates / 1e9),
            "Share of peak": _speed(result, share, percent),
        }

    notes = [
        f"{peak.device}: at most {figure(peak.gflops_fp32)} GFLOP/s in float32 and "
        f"{figure(peak.copy_gigabytes_per_second)} GB/s, measured by {peak.measured_by}."
        for peak in run.peaks
    ]
    return _case_table("Share of the machine's measured peak", run, cells, *notes)


def power_table(run: BenchmarkRun) -> Table:
    """Return the power drawn, the clocks and the temperatures."""

    def listed(values: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.0f}" for name, value in values.items()) or NOTHING

    def cells(result: CaseResult) -> dict[str, str] | None:
        if (power := result.power) is None:
            return None
        return {
            "Mean, W": figure(power.mean_watts),
            "Largest, W": figure(power.largest_watts),
            "Idle, W": figure(power.idle_watts),
            "Energy, J/image": _speed(result, power.joules_per_image),
            "Clocks, MHz": listed(power.clocks_mhz),
            "Highest temperature, °C": listed(power.temperatures_celsius),
            "Power mode": power.power_mode or NOTHING,
            "Throttled": NOTHING if power.throttled is None else ", ".join(power.throttled) or "no",
        }

    powers = [result.power for result in run.results if result.power is not None]
    covered = dict.fromkeys(f"{power.source} covers {power.covers}." for power in powers)
    return _case_table("Power and temperature", run, cells, *covered)


def sustained_table(run: BenchmarkRun) -> Table:
    """Return how the throughput changes while a case runs without pause."""

    def cells(result: CaseResult) -> dict[str, str] | None:
        if result.sustained is None or not (tenths := result.sustained.images_per_second):
            return None
        change = 100 * (tenths[-1] / tenths[0] - 1) if tenths[0] else None
        return {
            "Duration, s": figure(result.sustained.seconds),
            "First tenth, images/s": _speed(result, tenths[0]),
            "Last tenth, images/s": _speed(result, tenths[-1]),
            "Slowest tenth, images/s": _speed(result, min(tenths)),
            "Last relative to first": _speed(result, change, partial(percent, signed=True)),
        }

    return _case_table("Sustained throughput", run, cells)


def ratio_table(run: BenchmarkRun) -> Table:
    """Return the speed of each case relative to its baselines."""
    results = {result.case: result for result in run.results}
    rows = []
    for ratio in sorted(run.ratios, key=lambda each: (each.case.scale, each.case.pixels, each.case.batch)):
        own, baseline = results.get(ratio.case), results.get(ratio.baseline)
        is_shown = own is not None and baseline is not None and own.has_quality and baseline.has_quality
        baseline_psnr = _psnr_cells(baseline.quality if baseline else None)
        rows.append(
            {
                **case_cells(ratio.case),
                "Baseline": ratio.baseline.name,
                "Speed-up": f"{figure(ratio.times_as_fast)}x" if is_shown else NO_QUALITY,
                "95% interval": f"{figure(ratio.low)} to {figure(ratio.high)}" if is_shown else NO_QUALITY,
                "Rounds": str(ratio.rounds),
                **_psnr_cells(own.quality if own else None),
                "Baseline's PSNR to ground truth, dB": baseline_psnr[_TO_GROUND_TRUTH],
            }
        )
    note = "Ratio of median times, measured in turns in one process. Below 1x: slower; around 1: no difference."
    return _speed_table("Compared with baselines", rows, note)


def growth_table(run: BenchmarkRun) -> Table:
    """Return how the memory grows with the size of the image."""
    rows = [
        {
            "Method": f"{growth.method} {growth.precision}",
            "Scale": f"x{growth.scale}",
            "Fixed": memory_text(growth.fixed_bytes),
            "Per input pixel, bytes": figure(growth.bytes_per_pixel),
            "Misfit": percent(growth.largest_misfit_percent),
            "Largest input, megapixels": figure(growth.largest_pixels / 1e6),
            "Available": memory_text(growth.available_bytes),
        }
        for growth in run.growth
    ]
    note = "A line fitted to the measured sizes. Largest input: the size at which it reaches the available memory."
    return table("Memory by image size", rows, note)


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
        rates = {
            "Decode, fps": video.decode_fps,
            "Upscale, fps": video.upscale_fps,
            "Encode, fps": video.encode_fps,
            "Whole, fps": video.total_fps,
        }
        rows.append(
            {
                "Method": f"{video.method} {video.precision}",
                "Scale": f"x{video.scale}",
                "Input": size_text(video.width, video.height),
                "Frames": str(video.frames),
                **{heading: NO_QUALITY if quality is None else figure(rate) for heading, rate in rates.items()},
                "Slowest stage": video.slowest_stage,
                "Codec": video.codec,
                **_psnr_cells(quality),
            }
        )
    return _speed_table("Video", rows, "Each stage by itself, and the whole from file to file.")


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
    """Return what makes figures doubtful, one line each, with the first case it concerns and how many others."""
    cases: dict[str, list[str]] = {}
    for result in in_order(run.results):
        for warning in dict.fromkeys(result.warnings):
            cases.setdefault(warning, []).append(result.case.title)
    others = {warning: f" and {counted(len(names) - 1, 'other case')}" for warning, names in cases.items() if names[1:]}
    return [f"{names[0]}{others.get(warning, '')}: {warning}" for warning, names in cases.items()]


def errors_of(run: BenchmarkRun) -> list[str]:
    """Return the cases that failed and why, one line each."""
    return [f"{result.case.title}: {result.error}" for result in in_order(run.results) if result.error is not None]
