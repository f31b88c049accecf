"""The comparison of two runs as a table."""

import math

from overnet.benchmarks.compare_runs import CaseComparison, Change, RunComparison
from overnet.benchmarks.report.contents import case_cells
from overnet.benchmarks.report.table import NOTHING, Table, decibels, figure, memory_text, percent, table


def comparison_table(comparison: RunComparison) -> Table:
    """Return a comparison as a table, with the regressions and what else differs as notes below it."""
    rows = [_cells(each, comparison.fail_above_percent) for each in comparison.cases]
    notes = [f"From {comparison.old_started} to {comparison.new_started}."]
    notes += [f"Worse than allowed: {line}" for line in comparison.regressions]
    notes += [f"Failed: {case.title}: {reason}" for case, reason in comparison.failures]
    notes += [f"No longer measured: {case.title}" for case in comparison.missing]
    notes += [f"New: {case.title}" for case in comparison.added]
    notes += [f"Differs: {note}" for note in comparison.notes]
    return table("Compared with the earlier run", rows, *notes)


def _cells(compared: CaseComparison, limit_percent: float | None) -> dict[str, str]:
    latency, throughput = compared.latency, compared.throughput
    times = {}
    if latency is not None:
        times = {
            "Median before, ms": figure(latency.old),
            "Now, ms": figure(latency.new),
            "Change": percent(latency.percent, signed=True),
            "95% interval": f"{percent(latency.low, signed=True)} to {percent(latency.high, signed=True)}",
            "Noise": "not known" if math.isinf(latency.noise_percent) else percent(latency.noise_percent),
        }
    return {
        **case_cells(compared.case),
        **times,
        "Images/s": percent(throughput.percent if throughput else None, signed=True),
        "Memory": _memory(compared.host_memory),
        "GPU memory": _memory(compared.device_memory),
        "PSNR to reference, dB": _decibels_changed(compared.reference_change_db),
        "PSNR to ground truth, dB": _decibels_changed(compared.ground_truth_change_db),
        "Verdict": _verdict(compared, limit_percent),
    }


def _memory(change: Change | None) -> str:
    return NOTHING if change is None else f"{memory_text(change.new)} ({percent(change.percent, signed=True)})"


def _decibels_changed(change_db: float | None) -> str:
    if change_db is None:
        return NOTHING
    if math.isinf(change_db):
        return "now identical" if change_db > 0 else "no longer identical"
    return f"+{decibels(change_db)}" if change_db > 0 else decibels(change_db)


def _verdict(compared: CaseComparison, limit_percent: float | None) -> str:
    if compared.regression is not None:
        return "worse"
    if compared.latency is None:
        return "times not compared"
    if not compared.latency.counts:
        return "same speed"
    if compared.latency.percent < 0:
        return "faster"
    return "slower" if limit_percent is None or compared.case.kind == "baseline" else "slower, as allowed"
