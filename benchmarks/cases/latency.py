"""How long a method takes, and how many images a second it does with as many on their way as it takes.

As trtexec measures: after 200 ms of warming up, at least 10 runs and at least so many seconds. Times are the host's,
from an array in its memory to an array in its memory; a GPU's own times are taken in runs of their own, because what
marks them takes time too.
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
    from overnet.runtime.backends.trt.stage_times import StageTimes

_Made = TypeVar("_Made")

WARM_UP_MS = 200.0
LEAST_RUNS = 10
# From which spread on a GPU's own times are doubtful: nothing but the GPU has a say in them. It is trtexec's limit.
_DOUBTFUL_GPU_PERCENT = 2.5
_TENTHS = 10


def measure(
    run: Callable[[], object], *, seconds: float, warm_up_ms: float = WARM_UP_MS, least_runs: int = LEAST_RUNS
) -> list[float]:
    """Time a function again and again.

    Args:
        run: what is timed; returns when all of it is done.
        seconds: how long at least.
        warm_up_ms: for how long, and at least once, it is run before.
        least_runs: how many times are taken at least, however long that takes.

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
    """What something makes, and how long that took in milliseconds."""
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
        seconds, least_runs: as for `measure`; of the GPU's own times again as much.
        run_timed: upscales the batch and tells the GPU's times; None where there are none.
    """
    samples_ms = measure(run, seconds=seconds, least_runs=least_runs)
    host = spread(samples_ms)
    if run_timed is None:
        return Latency(host, samples_ms)
    taken: list[StageTimes] = []
    # Of the warm-up, too, times are taken; they come first and are left out.
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
    """Warnings where times spread so much that a figure is doubtful; one line each."""
    found = [doubt("the latency", latency.host)]
    if latency.compute is not None:
        found.append(doubt("the GPU's computing time", latency.compute, limit_percent=_DOUBTFUL_GPU_PERCENT))
    return [warning for warning in found if warning is not None]


def keep_busy(
    run: Callable[[], object],
    *,
    images: int,
    seconds: float,
    warm_up_ms: float = WARM_UP_MS,
    least_runs: int = LEAST_RUNS,
) -> list[float]:
    """Run a function without pause: for methods that do one batch after the other.

    Args:
        run: upscales a batch.
        images: in a batch.
        seconds, warm_up_ms, least_runs: as for `measure`.

    Returns:
        When each image was done, in seconds from the end of the warm-up; those of a batch are done at one time.
    """
    samples_ms = measure(run, seconds=seconds, warm_up_ms=warm_up_ms, least_runs=least_runs)
    return [float(done) for done in np.repeat(np.cumsum(samples_ms) / 1000, images)]


def keep_stream_busy(
    stream: UpscaleStream,
    images: Sequence[Image],
    *,
    seconds: float,
    warm_up_ms: float = WARM_UP_MS,
    least_runs: int = LEAST_RUNS,
) -> list[float]:
    """Keep all of a stream's slots busy, in the pipeline that videos go through.

    One thread fills the buffers, as a decoder would; one submits them; one fetches the results and leaves them alone.

    Args:
        stream: for the images' size; it is stopped afterwards, and the caller closes it.
        images: H x W x 3 uint8 each, taken in turn.
        seconds, warm_up_ms: as for `measure`.
        least_runs: how many images are counted at least.

    Returns:
        When each image was done, in seconds from when the first after the warm-up was. That one is not among them, so
        that their number by the last is the number in a second.

    Raises:
        BackendError, MemoryError: as the stream does.
        KeyboardInterrupt: at Ctrl-C.
    """
    done: list[float] = []
    enough = threading.Event()
    # When the first image after the warm-up was done.
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
    """How many images a second a method does without pause.

    Args:
        done: as `keep_busy` and `keep_stream_busy` give it, at least one.

    Raises:
        ValueError: there is none.
    """
    if not done:
        raise ValueError("no image was done")
    return len(done) / done[-1]


def sustained(done: Sequence[float]) -> Sustained:
    """How the speed held, from when each image was done.

    Each image is spread evenly over the time that it took, so that a tenth in which none ends is no standstill.

    Args:
        done: as for `images_per_second`.

    Raises:
        ValueError: there is none.
    """
    if not done:
        raise ValueError("no image was done")
    # Of images that were done at one time, the last one's number counts.
    times, last_of = np.unique(np.asarray(done)[::-1], return_index=True)
    numbers = len(done) - last_of
    edges = np.linspace(0, done[-1], _TENTHS + 1)
    finished = np.interp(edges, np.concatenate([[0.0], times]), np.concatenate([[0], numbers]))
    rates = np.diff(finished) / (done[-1] / _TENTHS)
    return Sustained(float(done[-1]), [float(rate) for rate in rates])
