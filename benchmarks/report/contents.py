"""What a report of a run says, as tables of plain text: the same in HTML, in Markdown and in a terminal.

A speed is shown only beside its quality. An upscaler that may give any image can be as fast as one likes, so where a
case has no figure of its quality, none that tells its speed is in any table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overnet.benchmarks.report.table import (
    NOTHING,
    Column,
    Table,
    decibels,
    figure,
    memory_text,
    percent,
    size_text,
    table,
)
from overnet.benchmarks.results import BenchmarkRun, Case, CaseResult, Power, QualityFigures, Spread

NO_QUALITY = "not shown"
FAILED = "failed"

_WITHOUT_QUALITY = (
    "A speed is shown only beside its quality: where no PSNR could be measured, the speed is left out (not shown)."
)
_CASE_COLUMNS = [
    Column("Method", numeric=False),
    Column("Scale"),
    Column("Input"),
    Column("Batch"),
]


def has_quality(result: CaseResult) -> bool:
    """Whether there is any figure of how good a case's images are, without which its speed is not shown."""
    return result.quality is not None and result.quality.words != NOTHING


def speed_is_shown(result: CaseResult) -> bool:
    """Whether a case was timed, and may be shown with its times."""
    return result.error is None and result.latency is not None and has_quality(result)


def in_order(results: Iterable[CaseResult]) -> list[CaseResult]:
    """By scale, then size, then batch; of one of these, as they were measured."""
    return sorted(results, key=lambda each: (each.case.scale, each.case.pixels, each.case.batch))


def quality_words(quality: QualityFigures | None) -> str:
    """Every PSNR there is, in a few words."""
    if quality is None or quality.words == NOTHING:
        return "no PSNR"
    words = [quality.words]
    if quality.ground_truth_psnr_db is not None and "ground truth" not in quality.words:
        words.append(f"{quality.ground_truth_psnr_db:.2f} dB to the ground truth")
    return ", ".join(words)


def to_reference(quality: QualityFigures | None) -> str:
    """The PSNR to the network's exact result in decibels."""
    if quality is None:
        return NOTHING
    return "identical" if quality.largest_difference_levels == 0 else decibels(quality.reference_psnr_db)


def _case_cells(case: Case) -> list[str]:
    batch = str(case.batch) if case.batch > 1 else NOTHING
    return [case.name, f"x{case.scale}", size_text(case.width, case.height), batch]


def _case_table(title: str, columns: Sequence[Column], rows: list[tuple[CaseResult, list[str]]], *notes: str) -> Table:
    cells = [_case_cells(result.case) + own for result, own in rows]
    hidden = any(NO_QUALITY in own for _, own in rows)
    return table(title, [*_CASE_COLUMNS, *columns], cells, *notes, _WITHOUT_QUALITY if hidden else "")


def _speed(result: CaseResult, cell: str) -> str:
    return cell if has_quality(result) or cell == NOTHING else NO_QUALITY


def summary_table(run: BenchmarkRun) -> Table:
    """The figures that people look for first, a row a case."""
    rows = []
    for result in in_order(run.results):
        quality, memory, power = result.quality, result.memory, result.power
        if result.error is not None or result.latency is None:
            rows.append((result, [FAILED, *[NOTHING] * 7, result.device or NOTHING]))
            continue
        own = [
            _speed(result, figure(result.latency.host.p50_ms)),
            _speed(result, figure(result.latency.host.p99_ms)),
            _speed(result, figure(result.images_per_second)),
            to_reference(quality),
            decibels(quality.ground_truth_psnr_db if quality else None),
            memory_text(memory.peak_host_bytes if memory else None),
            memory_text(memory.device_bytes if memory else None),
            _speed(result, figure(power.joules_per_image if power else None)),
            result.device or NOTHING,
        ]
        rows.append((result, own))
    columns = [
        Column("Median", "ms"),
        Column("p99", "ms"),
        Column("Images/s"),
        Column("To the reference", "dB"),
        Column("To the ground truth", "dB"),
        Column("Peak memory"),
        Column("GPU memory"),
        Column("Energy", "J/image"),
        Column("Device", numeric=False),
    ]
    return _case_table("At a glance", columns, rows, *_quality_notes(run))


def _quality_notes(run: BenchmarkRun) -> list[str]:
    qualities = [result.quality for result in run.results if result.quality is not None]
    notes = []
    references = dict.fromkeys(
        each.reference for each in qualities if each.reference and each.largest_difference_levels is not None
    )
    if references:
        notes.append(f"Reference: {', '.join(references)}.")
    if ground_truths := dict.fromkeys(each.ground_truth for each in qualities if each.ground_truth):
        notes.append(f"Ground truth: {', '.join(ground_truths)}.")
    return notes


def latency_table(run: BenchmarkRun) -> Table:
    """Percentiles of the time from array to array."""
    rows = []
    for result in in_order(run.results):
        if result.latency is not None:
            host = result.latency.host
            times = [host.p50_ms, host.p90_ms, host.p95_ms, host.p99_ms, host.mean_ms, host.minimum_ms]
            own = [_speed(result, figure(each)) for each in times]
            own += [percent(host.deviation_percent), str(host.runs), _speed(result, figure(result.images_per_second))]
            rows.append((result, own))
    columns = [Column(name, "ms") for name in ("Median", "p90", "p95", "p99", "Mean", "Minimum")]
    columns += [Column("Deviation"), Column("Runs"), Column("Images/s")]
    note = "Milliseconds a batch, from an array in the host's memory to an array in the host's memory; images a second"
    return _case_table(
        "Latency and throughput", columns, rows, f"{note} with as many on their way as the method takes."
    )


def gpu_table(run: BenchmarkRun) -> Table:
    """What part of the latency is copying, by the GPU's clock; no row on a CPU."""

    def median(spread: Spread | None) -> str:
        return figure(spread.p50_ms if spread else None)

    rows = []
    for result in in_order(run.results):
        latency = result.latency
        if latency is not None and latency.compute is not None:
            parts = [latency.copy_in, latency.compute, latency.copy_out, latency.host]
            rows.append((result, [_speed(result, median(part)) for part in parts]))
    columns = [Column(name, "ms") for name in ("Copy in", "Compute", "Copy out", "Host")]
    return _case_table(
        "Where the GPU's time goes", columns, rows, "Medians, by CUDA events; host: by the host's clock."
    )


def start_table(run: BenchmarkRun) -> Table:
    """How long it takes until the first image is there."""
    rows = []
    for result in in_order(run.results):
        if result.load_ms is not None or result.first_ms is not None:
            times = [result.load_ms, result.first_ms]
            rows.append((result, [_speed(result, figure(each)) for each in times]))
    columns = [Column("Load", "ms"), Column("First image", "ms")]
    return _case_table("Start", columns, rows, "Load: from the model's file to a method that is ready.")


def memory_table(run: BenchmarkRun) -> Table:
    """What each case takes in memory."""
    rows = []
    for result in in_order(run.results):
        memory = result.memory
        if memory is not None:
            own = [
                memory_text(memory.peak_host_bytes),
                memory_text(memory.before_host_bytes),
                memory_text(memory.device_bytes),
                memory_text(memory.activation_bytes),
                figure(memory.bytes_per_input_pixel),
            ]
            rows.append((result, own))
    columns = [
        Column("Peak of the process"),
        Column("Before loading"),
        Column("GPU memory"),
        Column("Activations"),
        Column("Per input pixel", "bytes"),
    ]
    note = "Each in a process of its own. Per input pixel: what came on top after loading began."
    return _case_table("Memory", columns, rows, note)


def quality_table(run: BenchmarkRun) -> Table:
    """How good the images are."""
    rows = []
    for result in in_order(run.results):
        quality = result.quality
        if quality is not None:
            levels = quality.largest_difference_levels
            own = [
                to_reference(quality),
                NOTHING if levels is None else str(levels),
                decibels(quality.ground_truth_psnr_db),
                NOTHING if quality.ground_truth_ssim is None else f"{quality.ground_truth_ssim:.4f}",
            ]
            rows.append((result, own))
    columns = [
        Column("To the reference", "dB"),
        Column("Largest difference", "levels"),
        Column("To the ground truth", "dB"),
        Column("SSIM"),
    ]
    return _case_table("Quality", columns, rows, *_quality_notes(run))


def peak_table(run: BenchmarkRun) -> Table:
    """How much of what the machine can do is made use of."""
    rows = []
    for result in in_order(run.results):
        if result.multiply_accumulates is not None:
            share = None if result.share_of_peak is None else 100 * result.share_of_peak
            own = [figure(result.multiply_accumulates / 1e9), _speed(result, percent(share))]
            rows.append((result, own))
    columns = [Column("Multiply-accumulates", "G/image"), Column("Share of peak")]
    notes = [
        f"{peak.device}: at most {figure(peak.gflops_fp32)} GFLOP/s in float32 and "
        f"{figure(peak.copy_gigabytes_per_second)} GB/s, measured by {peak.measured_by}."
        for peak in run.peaks
    ]
    return _case_table("Share of the machine's measured peak", columns, rows, *notes)


def power_table(run: BenchmarkRun) -> Table:
    """What the machine drew, and how warm it became."""
    rows = []
    for result in in_order(run.results):
        if result.power is not None:
            rows.append((result, _power_cells(result, result.power)))
    columns = [
        Column("Mean", "W"),
        Column("Largest", "W"),
        Column("Idle", "W"),
        Column("Energy", "J/image"),
        Column("Clocks", "MHz", numeric=False),
        Column("Warmest", "°C", numeric=False),
        Column("Power mode", numeric=False),
        Column("Throttled", numeric=False),
    ]
    powers = [result.power for result in run.results if result.power is not None]
    covered = dict.fromkeys(f"{power.source} covers {power.covers}." for power in powers)
    return _case_table("Power and heat", columns, rows, *covered)


def _power_cells(result: CaseResult, power: Power) -> list[str]:
    throttled = NOTHING if power.throttled is None else ", ".join(power.throttled) or "no"
    return [
        figure(power.mean_watts),
        figure(power.largest_watts),
        figure(power.idle_watts),
        _speed(result, figure(power.joules_per_image)),
        ", ".join(f"{name} {clock:.0f}" for name, clock in power.clocks_mhz.items()) or NOTHING,
        ", ".join(f"{name} {degrees:.0f}" for name, degrees in power.temperatures_celsius.items()) or NOTHING,
        power.power_mode or NOTHING,
        throttled,
    ]


def sustained_table(run: BenchmarkRun) -> Table:
    """How the speed holds without pause."""
    rows = []
    for result in in_order(run.results):
        tenths = result.sustained.images_per_second if result.sustained else []
        if result.sustained is not None and tenths:
            change = 100 * (tenths[-1] / tenths[0] - 1) if tenths[0] else None
            speeds = [figure(tenths[0]), figure(tenths[-1]), figure(min(tenths))]
            own = [figure(result.sustained.seconds), *speeds, percent(change, signed=True)]
            rows.append((result, [own[0], *(_speed(result, each) for each in own[1:])]))
    columns = [
        Column("Without pause", "s"),
        Column("First tenth", "images/s"),
        Column("Last tenth", "images/s"),
        Column("Slowest tenth", "images/s"),
        Column("Last by first"),
    ]
    return _case_table("How the speed holds", columns, rows)


def ratio_table(run: BenchmarkRun) -> Table:
    """How many times as fast each case is as its baselines."""
    results = {result.case: result for result in run.results}
    rows = []
    hidden = False
    for ratio in sorted(run.ratios, key=lambda each: (each.case.scale, each.case.pixels, each.case.batch)):
        both = [results.get(ratio.case), results.get(ratio.baseline)]
        qualities = [result.quality if result else None for result in both]
        if all(result is not None and has_quality(result) for result in both):
            figures = [f"{figure(ratio.times_as_fast)}x", f"{figure(ratio.low)} to {figure(ratio.high)}"]
        else:
            figures, hidden = [NO_QUALITY, NO_QUALITY], True
        psnr = [
            to_reference(qualities[0]),
            *(decibels(each.ground_truth_psnr_db if each else None) for each in qualities),
        ]
        rows.append([*_case_cells(ratio.case), ratio.baseline.name, *figures, str(ratio.rounds), *psnr])
    columns = [
        *_CASE_COLUMNS,
        Column("Baseline", numeric=False),
        Column("Times as fast"),
        Column("95% interval"),
        Column("Rounds"),
        Column("To the reference", "dB"),
        Column("To the ground truth", "dB"),
        Column("Baseline to the ground truth", "dB"),
    ]
    note = "Medians of runs that took turns in one process. Below 1x: slower; around 1: no difference."
    return table("Against baselines", columns, rows, note, _WITHOUT_QUALITY if hidden else "")


def growth_table(run: BenchmarkRun) -> Table:
    """How memory grows with the image."""
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
    columns = [
        Column("Method", numeric=False),
        Column("Scale"),
        Column("Fixed"),
        Column("Per input pixel", "bytes"),
        Column("Misfit"),
        Column("Largest input", "megapixels"),
        Column("Available"),
    ]
    note = (
        "A line through the sizes measured; largest input: the one that would take all the memory that was available."
    )
    return table("How memory grows", columns, rows, note)


def video_table(run: BenchmarkRun) -> Table:
    """Videos from file to file."""
    known = {
        (result.case.method, result.case.precision, result.case.scale): result.quality
        for result in run.results
        if has_quality(result)
    }
    rows = []
    hidden = False
    for video in run.videos:
        quality = known.get((video.method, video.precision, video.scale))
        figures = [figure(each) for each in (video.decode_fps, video.upscale_fps, video.encode_fps, video.total_fps)]
        if quality is None:
            figures, hidden = [NO_QUALITY] * 4, True
        rows.append(
            [
                f"{video.method} {video.precision}",
                f"x{video.scale}",
                size_text(video.width, video.height),
                str(video.frames),
                *figures,
                video.held_back_by,
                video.codec,
                to_reference(quality),
                decibels(quality.ground_truth_psnr_db if quality else None),
            ]
        )
    columns = [
        Column("Method", numeric=False),
        Column("Scale"),
        Column("Input"),
        Column("Frames"),
        *(Column(name, "fps") for name in ("Decode", "Upscale", "Encode", "From file to file")),
        Column("Held back by", numeric=False),
        Column("Codec", numeric=False),
        Column("To the reference", "dB"),
        Column("To the ground truth", "dB"),
    ]
    note = "Each stage by itself, and all of them together."
    return table("Video", columns, rows, note, _WITHOUT_QUALITY if hidden else "")


def all_tables(run: BenchmarkRun) -> list[Table]:
    """Every table that has a row, in the order of the report."""
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
    """What makes figures doubtful, one line each, with the case that it is about."""
    return [f"{result.case.title}: {warning}" for result in in_order(run.results) for warning in result.warnings]


def errors_of(run: BenchmarkRun) -> list[str]:
    """What failed, one line each."""
    return [f"{result.case.title}: {result.error}" for result in in_order(run.results) if result.error is not None]
