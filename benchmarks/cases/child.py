"""The process that measures one case: the request comes on stdin, the result goes to stdout.

See `overnet.benchmarks.cases.run`.

python -m overnet.benchmarks.cases.child
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from overnet.benchmarks.cases.latency import (
    doubts,
    images_per_second,
    keep_stream_busy,
    measure,
    measure_latency,
    timed,
    when_done,
)
from overnet.benchmarks.cases.latency import sustained as sustained_speed
from overnet.benchmarks.cases.memory import DeviceMemory, memory_of, peak_host_bytes, resident_host_bytes
from overnet.benchmarks.cases.method import Load, Method, import_backend, on_gpu
from overnet.benchmarks.cases.quality import (
    against_reference,
    check_image,
    make_reference,
    quality_of,
    read_reference,
)
from overnet.benchmarks.cases.run import AGAIN, DOING, RESULT, CaseRequest
from overnet.benchmarks.results import CaseResult, Latency, Power, QualityFigures
from overnet.errors import OverNetError
from overnet.files.checked_json import from_json
from overnet.imaging.moving_photographs import batch_of
from overnet.system.child_process import end_with_parent
from overnet.types import ImageBatch, Progress

if TYPE_CHECKING:
    from overnet.benchmarks.power.source import PowerSource

_IDLE_SECONDS = 1.0


class EngineBuiltError(Exception):
    """An engine was built while the method was loaded, which would distort the measurements."""


def measure_case(
    request: CaseRequest,
    imports: Callable[[CaseRequest], Load] = import_backend,
    *,
    on_progress: Progress = lambda doing, done, total: None,
    may_ask_again: bool = False,
) -> CaseResult:
    """Measure a case in this process, which should have done nothing else before.

    Args:
        imports: imports the libraries that a method needs, and returns the function that loads it.
        on_progress: is called with what is being done.
        may_ask_again: whether to stop if an engine had to be built.

    Raises:
        EngineBuiltError: an engine had to be built; the next process will find it.
        OverNetError, MemoryError: the method cannot be loaded or fails.
    """
    case = request.case
    batch = batch_of(case.width, case.height, case.batch)
    gpu = request.device if on_gpu(case.method, request.provider) else None
    meter = _PowerMeter(request, gpu)
    load = imports(request)
    device_memory = None if gpu is None else DeviceMemory(gpu)
    before_host_bytes = resident_host_bytes()
    built: list[str] = []

    def building(doing: str, done: int, total: int) -> None:
        built.append(doing)
        on_progress(doing, done, total)

    on_progress("loading", 0, 0)
    method, load_ms = timed(lambda: load(building))
    try:
        if built and may_ask_again:
            raise EngineBuiltError
        warnings = ["the load time includes building an engine, which could not be cached"] if built else []
        _, first_ms = timed(lambda: method.upscale(batch))
        on_progress("latency", 0, 0)
        upscale_timed = method.upscale_timed
        latency = measure_latency(
            lambda: method.upscale(batch),
            seconds=request.seconds,
            run_timed=None if upscale_timed is None else lambda: upscale_timed(batch),
            least_runs=request.least_runs,
        )
        on_progress("throughput", 0, 0)
        measured = None if request.sustained_seconds or meter.source is not None else latency
        done, power = meter.during(lambda: _images_done(request, method, batch, measured))
        # Before the quality, which upscales other images with other methods.
        memory = memory_of(
            case,
            before_host_bytes=before_host_bytes,
            peak_bytes=peak_host_bytes(),
            device_bytes=None if device_memory is None else device_memory.taken_bytes(),
            activation_bytes=method.activation_bytes(),
            device=request.device,
        )
        on_progress("quality", 0, 0)
        quality = _quality(request, method)
        return CaseResult(
            case,
            device=method.device,
            model=method.model,
            latency=latency,
            images_per_second=images_per_second(done),
            load_ms=load_ms,
            first_ms=first_ms,
            memory=memory,
            quality=quality,
            power=power,
            sustained=sustained_speed(done) if request.sustained_seconds else None,
            multiply_accumulates=method.multiply_accumulates(),
            warnings=list(dict.fromkeys([*warnings, *meter.warnings, *doubts(latency), *method.pop_notes()])),
        )
    finally:
        method.close()


def _images_done(request: CaseRequest, method: Method, batch: ImageBatch, latency: Latency | None) -> list[float]:
    """Return when each image was done, in flight together; a method without a stream takes the times of `latency`."""
    seconds = request.sustained_seconds or request.seconds
    stream = method.open_stream()
    if stream is not None:
        with closing(stream):
            return keep_stream_busy(stream, list(batch), seconds=seconds, least_runs=request.least_runs)
    if latency is not None:
        return when_done(latency.samples_ms, len(batch))
    run = partial(method.upscale, batch)
    return when_done(measure(run, seconds=seconds, least_runs=request.least_runs), len(batch))


def _quality(request: CaseRequest, method: Method) -> QualityFigures:
    case = request.case
    if request.reference_file is not None:
        reference = read_reference(request.reference_file)
    else:
        reference = make_reference(check_image(case.width, case.height), case.scale, request.model)
    if not request.judge_ground_truth:
        return against_reference(method.upscale_any, reference)
    return quality_of(method.upscale_any, case.scale, reference=reference, ground_truth=request.data)


class _PowerMeter:
    """A meter of the power, if that is requested and possible; `warnings` say why there are no figures."""

    def __init__(self, request: CaseRequest, gpu: int | None) -> None:
        self.source: PowerSource | None = None
        self.idle_watts: float | None = None
        self.warnings: list[str] = []
        if not request.measure_power:
            return
        from overnet.benchmarks.power.record import find_source, idle_watts

        try:
            self.source = find_source(gpu)
        except OverNetError as error:
            self.warnings.append(f"power is not measured: {error}")
        else:
            self.idle_watts = idle_watts(self.source, _IDLE_SECONDS)

    def during(self, run: Callable[[], list[float]]) -> tuple[list[float], Power | None]:
        """Call a function that returns when each image was done, and measure the power meanwhile."""
        if self.source is None:
            return run(), None
        from overnet.benchmarks.power.record import record

        with record(self.source) as recording:
            done = run()
        power = recording.power(images=len(done), seconds=done[-1], idle_watts=self.idle_watts)
        if recording.failure is not None:
            self.warnings.append(f"power is not measured: {recording.failure}")
        return done, power


def answer(imports: Callable[[CaseRequest], Load] = import_backend) -> None:
    """Read a request from stdin, measure it, and write the result to stdout.

    Args:
        imports: see `measure_case`.
    """
    # Libraries print on stdout, from C too; that output is redirected to stderr.
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    request = from_json(CaseRequest, asked["request"], name="the request")

    def say(said: dict[str, Any]) -> None:
        reply.write(json.dumps(said, allow_nan=False) + "\n")
        reply.flush()

    def on_progress(doing: str, done: int, total: int) -> None:
        say({DOING: doing, "done": done, "total": total})

    try:
        result = measure_case(request, imports, on_progress=on_progress, may_ask_again=asked["may_ask_again"])
    except EngineBuiltError:
        say({AGAIN: True})
        return
    except OverNetError as error:
        result = CaseResult(request.case, device="", error=str(error))
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        result = CaseResult(request.case, device="", error=f"out of memory{reason}")
    say({RESULT: asdict(result)})


if __name__ == "__main__":
    answer()
