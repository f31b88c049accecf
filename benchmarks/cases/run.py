"""Run each case in its own process, so that its memory is its own and a crash is one line in the report."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from overnet.benchmarks.results import Case, CaseResult
from overnet.files.checked_json import from_json
from overnet.system.child_process import child_environment, exit_reason, parse_json_line
from overnet.types import Progress

CHILD: tuple[str, ...] = ("-m", "overnet.benchmarks.cases.child")
# A case may include building an engine, which takes minutes on a small board.
TIMEOUT_SECONDS = 3600.0
# The keys of the process's messages, one JSON object per line.
DOING, RESULT, AGAIN = "doing", "result", "again"


@dataclass(frozen=True)
class CaseRequest:
    """What a process has to measure.

    Attributes:
        case: its method is a backend's name.
        model: see `overnet.runtime.upscaler.Upscaler`; None for the bundled one.
        threads, device, provider, slots: see `overnet.runtime.backends.base.BackendOptions`; the provider is only for
            ONNX Runtime.
        seconds, least_runs: the minimum duration and number of runs of each measurement.
        sustained_seconds: how long to run without pause for the sustained throughput; 0: not at all.
        reference_file: written by `overnet.benchmarks.cases.quality.write_reference`; None to compute the reference.
        ground_truth: a folder of real images; None for the bundled photographs.
        judge_ground_truth: whether to measure the quality on them; once per method and scale is enough.
        measure_power: whether to measure the power, if possible.
    """

    case: Case
    model: str | None = None
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    slots: int = 3
    seconds: float = 3.0
    least_runs: int = 10
    sustained_seconds: float = 0.0
    reference_file: str | None = None
    ground_truth: str | None = None
    judge_ground_truth: bool = True
    measure_power: bool = False

    def to_text(self) -> str:
        """Return the request as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> CaseRequest:
        """Read the result of `to_text`."""
        value = json.loads(text)
        return cls(case=Case(**value.pop("case")), **value)


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
    said = _run(request, on_progress, timeout_seconds, child, may_ask_again=True)
    if said.get(AGAIN):
        said = _run(request, on_progress, timeout_seconds, child, may_ask_again=False)
    if "error" in said:
        return CaseResult(request.case, device="", error=said["error"])
    return from_json(CaseResult, said[RESULT], name="what the process that measures said")


def _run(
    request: CaseRequest,
    on_progress: Progress | None,
    timeout_seconds: float,
    child: Sequence[str],
    *,
    may_ask_again: bool,
) -> dict[str, Any]:
    """Run one process to its end; returns what it said last, or why it said nothing."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *child],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        )
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout_seconds, give_up)
        timer.daemon = True
        try:
            timer.start()
            said = _conversation(process, request, on_progress, may_ask_again=may_ask_again)
            code = process.wait()
        finally:
            timer.cancel()
            # After a regular end this does nothing.
            process.kill()
            process.wait()
            _close(process)
        # A result that came is whole, even where a library fails while Python ends.
        if said is not None:
            return said
        if timed_out.is_set():
            return {"error": f"it took longer than {timeout_seconds:g} s"}
        errors.seek(0)
        complaints = errors.read().decode("utf-8", "replace")
        return {"error": exit_reason("the process that measures", code, complaints)}


def _conversation(
    process: subprocess.Popen[str], request: CaseRequest, on_progress: Progress | None, *, may_ask_again: bool
) -> dict[str, Any] | None:
    """Tell a process what to do and listen until it ends; returns its last word where that is one."""
    assert process.stdin is not None and process.stdout is not None
    last = None
    try:
        # It stays open: where it closes, this process is gone, and the other one ends too.
        process.stdin.write(json.dumps({"may_ask_again": may_ask_again, "request": request.to_text()}) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None  # it ended before it could listen; its own words say why
    for line in process.stdout:
        said = parse_json_line(line)
        if DOING in said:
            if on_progress is not None:
                on_progress(str(said[DOING]), int(said["done"]), int(said["total"]))
        elif RESULT in said or AGAIN in said:
            last = said
    return last


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
