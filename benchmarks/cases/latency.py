"""Latency of a method, and its throughput with as many images in flight as it takes.

Measured as trtexec does: a warm-up of 200 ms, then at least 10 runs and at least the given seconds. Times are the
host's, from an array in host memory to an array in host memory. A GPU's own times are measured in separate runs,
because recording CUDA events takes time too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from overnet.benchmarks.results import Latency, Sustained
from overnet.benchmarks.timing_stats import doubt, spread
from overnet.runtime.backends.stream import Ticket, UpscaleStream
from overnet.runtime.pipeline import run_pipeline
from overnet.types import Image

if TYPE_CHECKING:
    from overnet.runtime.backends.trt.slot import StageTimes

_Made = TypeVar("_Made")

WARM_UP_MS = 200.0
LEAST_RUNS = 10
# The largest deviation of a GPU's own times without a warning: trtexec's limit.
_DOUBTFUL_GPU_PERCENT = 2.5
_TENTHS = 10


def measure(
    run: Callable[[], object], *, seconds: float, warm_up_ms: float = WARM_UP_MS, least_runs: int = LEAST_RUNS
) -> list[float]:
    """Time a function repeatedly.

    Args:
        run: the function; it returns when its work is done.
        seconds: the minimum duration.
        warm_up_ms: the minimum duration of the warm-up, which is at least one run.
        least_runs: the minimum number of runs, however long they take.

    Returns:
        The time of each run in milliseconds, in order.
    """
    warm = time.perf_counter() + warm_up_ms / 1000
    run()
    while time.perf_counter() < warm:
        run()
    samples_ms: list[float] = []
    began = after = time.perf_counter()
    while len(samples_ms) < least_runs or after - began < seconds:
        before = time.perf_counter()
        run()
        after = time.perf_counter()
        samples_ms.append(1000 * (after - before))
    return samples_ms


def timed(work: Callable[[], _Made]) -> tuple[_Made, float]:
    """Call a function; return its result and the time in milliseconds."""
    began = time.perf_counter()
    made = work()
    return made, 1000 * (time.perf_counter() - began)


def measure_latency(
    run: Callable[[], object],
    *,
    seconds: float,
    run_timed: Callable[[], StageTimes] | None = None,
    least_runs: int = LEAST_RUNS,
) -> Latency:
    """Measure how long one batch takes, and what of it a GPU spends copying and computing.

    Args:
        run: upscales the batch.
        seconds, least_runs: see `measure`; the GPU's own times are measured for as long again.
        run_timed: upscales the batch and returns the GPU's times; None without a GPU.
    """
    samples_ms = measure(run, seconds=seconds, least_runs=least_runs)
    host = spread(samples_ms)
    if run_timed is None:
        return Latency(host, samples_ms)
    taken: list[StageTimes] = []
    # `taken` begins with the times of the warm-up, which are left out.
    count = len(measure(lambda: taken.append(run_timed()), seconds=seconds, least_runs=least_runs))
    stages = taken[-count:]
    return Latency(
        host,
        samples_ms,
        copy_in=spread([stage.copy_in_ms for stage in stages]),
        compute=spread([stage.compute_ms for stage in stages]),
        copy_out=spread([stage.copy_out_ms for stage in stages]),
    )


def doubts(latency: Latency) -> list[str]:
    """Return a warning, one line each, for figures whose times vary too much."""
    found = [doubt("the latency", latency.host)]
    if latency.compute is not None:
        found.append(doubt("the GPU's computing time", latency.compute, limit_percent=_DOUBTFUL_GPU_PERCENT))
    return [warning for warning in found if warning is not None]


def when_done(samples_ms: Sequence[float], images: int) -> list[float]:
    """Return when each image was done, in seconds, of batches of `images` one after the other that took these times."""
    return [float(done) for done in np.repeat(np.cumsum(samples_ms) / 1000, images)]


def keep_stream_busy(
    stream: UpscaleStream,
    images: Sequence[Image],
    *,
    seconds: float,
    warm_up_ms: float = WARM_UP_MS,
    least_runs: int = LEAST_RUNS,
) -> list[float]:
    """Keep all of a stream's slots busy, in the pipeline that upscales videos.

    One thread fills the buffers, as a decoder would; one submits them; one fetches the results and discards them.

    Args:
        stream: for the images' size; it is stopped afterwards, and the caller closes it.
        images: H x W x 3 uint8 each, used in rotation.
        seconds, warm_up_ms: see `measure`.
        least_runs: the minimum number of images.

    Returns:
        The time at which each image was done, in seconds from the first image after the warm-up, which is not included:
        their number divided by the last time is the throughput.

    Raises:
        BackendError, MemoryError: as the stream does.
        KeyboardInterrupt: at Ctrl-C.
    """
    done: list[float] = []
    enough = threading.Event()
    # The time at which the first image after the warm-up was done.
    counted_from: list[float] = []

    def filled() -> Iterator[Image]:
        index = 0
        while not enough.is_set():
            image, buffer = images[index % len(images)], stream.buffer()
            if buffer is not None:
                np.copyto(buffer, image)
            yield image if buffer is None else buffer
            index += 1

    began = time.perf_counter()

    def fetch(ticket: Ticket) -> None:
        with ticket:
            now = time.perf_counter()
        if counted_from:
            done.append(now - counted_from[0])
            if done[-1] >= seconds and len(done) >= least_runs:
                enough.set()
        elif now - began >= warm_up_ms / 1000:
            counted_from.append(now)

    report = run_pipeline(filled(), stream.submit, fetch, on_stop=stream.stop)
    if report.interrupted:
        raise KeyboardInterrupt
    return done


def images_per_second(done: Sequence[float]) -> float:
    """Return the throughput of a method without pause.

    Args:
        done: the result of `when_done` or `keep_stream_busy`.

    Raises:
        ValueError: `done` is empty.
    """
    if not done:
        raise ValueError("no image was done")
    return len(done) / done[-1]


def sustained(done: Sequence[float]) -> Sustained:
    """Return the throughput in each tenth of the time.

    Each image counts evenly over the time that it took, so that a tenth in which none ends does not count as 0.

    Args:
        done: see `images_per_second`.

    Raises:
        ValueError: `done` is empty.
    """
    if not done:
        raise ValueError("no image was done")
    # For images that were done at the same time, use the number of the last one.
    times, last_of = np.unique(np.asarray(done)[::-1], return_index=True)
    numbers = len(done) - last_of
    edges = np.linspace(0, done[-1], _TENTHS + 1)
    finished = np.interp(edges, np.concatenate([[0.0], times]), np.concatenate([[0], numbers]))
    rates = np.diff(finished) / (done[-1] / _TENTHS)
    return Sustained(float(done[-1]), [float(rate) for rate in rates])
