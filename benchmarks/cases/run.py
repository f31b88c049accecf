"""Each case in a process of its own: so its memory is its own, and its end, however bad, is one line in a report."""

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

# Told what is being done, how much of it is done, and how much there is (0 where that is not known).

CHILD: tuple[str, ...] = ("-m", "overnet.benchmarks.cases.child")
# An engine may be built before, which takes minutes on a small board.
TIMEOUT_SECONDS = 3600.0
# What the process says, one JSON object a line with one of these keys.
DOING, RESULT, AGAIN = "doing", "result", "again"


@dataclass(frozen=True)
class CaseRequest:
    """What a process is to measure.

    Attributes:
        case: the method is a backend's name.
        model: as `overnet.runtime.upscaler.Upscaler` takes it; None for the bundled one.
        threads, device, provider, slots: as of `overnet.runtime.backends.base.BackendOptions`; the provider is ONNX
            Runtime's, and nothing to other backends.
        seconds: that each figure is measured for at least.
        least_runs: that each is measured by at least.
        sustained_seconds: how long it is kept busy without pause to see whether the speed holds; 0: not.
        reference_file: as `overnet.benchmarks.cases.quality.write_reference` writes it; None: it is computed.
        ground_truth: a folder of real images; None for the package's own.
        judge_ground_truth: whether to judge results on these at all; for further sizes of a method that tells nothing
            new.
        measure_power: whether to measure what the machine draws, where that can be known.
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
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> CaseRequest:
        """Read back what `to_text` gave."""
        value = json.loads(text)
        return cls(case=Case(**value.pop("case")), **value)


def run_case(
    request: CaseRequest,
    *,
    on_progress: Progress | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    child: Sequence[str] = CHILD,
) -> CaseResult:
    """Measure a case in a process of its own.

    Where the process had to build an engine first, another one measures: building takes memory of its own.

    Args:
        on_progress: is told what is being done. What it raises, and Ctrl-C, end the process before they are raised
            again.
        timeout_seconds: after which a process is ended.
        child: Python's arguments that start the process, which is to call `overnet.benchmarks.cases.child.answer`.

    Returns:
        The figures; or, where it failed, was killed or took too long, a result whose `error` says why in one line.
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
