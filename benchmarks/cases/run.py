"""Run each case in its own process, so that its memory is its own and a crash is one line in the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from overnet.benchmarks.options import MeasuringOptions
from overnet.benchmarks.results import Case, CaseResult
from overnet.files.checked_json import from_json
from overnet.system.child_process import PythonChild
from overnet.types import Progress

CHILD: tuple[str, ...] = ("-m", "overnet.benchmarks.cases.child")
# A case may include building an engine, which takes minutes on a small board.
TIMEOUT_SECONDS = 3600.0
# The keys of the process's messages, one JSON object per line.
DOING, RESULT, AGAIN = "doing", "result", "again"


@dataclass(frozen=True)
class CaseRequest(MeasuringOptions):
    """What a process has to measure.

    Attributes:
        case: its method is a backend's name.
        least_runs: the minimum number of runs of each measurement.
        reference_file: written by `overnet.benchmarks.cases.quality.write_reference`; None to compute the reference.
        judge_ground_truth: whether to measure the quality on real images; once per method and scale is enough.
        measure_power: whether to measure the power, if possible.
    """

    case: Case
    least_runs: int = 10
    reference_file: Path | None = None
    judge_ground_truth: bool = True
    measure_power: bool = False


def run_case(
    request: CaseRequest,
    *,
    on_progress: Progress | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    child: Sequence[str] = CHILD,
) -> CaseResult:
    """Measure a case in its own process.

    If the process had to build an engine first, a second one measures, because building takes memory too.

    Args:
        on_progress: is called with what is being done. If it raises, or at Ctrl-C, the process is ended first.
        timeout_seconds: after which a process is killed.
        child: Python's arguments of the process, which calls `overnet.benchmarks.cases.child.answer`.

    Returns:
        The figures; if the process failed, was killed or took too long, a result whose `error` says why in one line.
    """
    message = _run(request, on_progress, timeout_seconds, child, may_ask_again=True)
    if AGAIN in message:
        message = _run(request, on_progress, timeout_seconds, child, may_ask_again=False)
    if "error" in message:
        return CaseResult(request.case, device="", error=message["error"])
    return from_json(CaseResult, message[RESULT], name="the result of the process that measures")


def _run(
    request: CaseRequest,
    on_progress: Progress | None,
    timeout_seconds: float,
    child: Sequence[str],
    *,
    may_ask_again: bool,
) -> dict[str, Any]:
    """Run one process to its end; return its last message, or ``{"error": reason}``."""
    last = None
    with PythonChild(child, title="the process that measures", timeout_seconds=timeout_seconds) as process:
        process.send({"may_ask_again": may_ask_again, "request": asdict(request)})
        for message in process.messages():
            if DOING in message:
                if on_progress is not None:
                    on_progress(str(message[DOING]), int(message["done"]), int(message["total"]))
            elif RESULT in message or AGAIN in message:
                last = message
        # A result is complete even if a library fails while Python ends.
        return {"error": process.reason()} if last is None else last
