import itertools
import queue
import statistics
import threading
import time

import numpy as np
import pytest

from overnet.benchmarks.cases.latency import (
    doubts,
    images_per_second,
    keep_stream_busy,
    measure,
    measure_latency,
    sustained,
    when_done,
)
from overnet.benchmarks.results import Latency
from overnet.benchmarks.timing_stats import spread
from overnet.runtime.backends.trt.slot import StageTimes

SLEEP_SECONDS = 0.04


class Sleeper:
    """Takes a known time, and keeps its own record of it, by another clock than what is tested."""

    def __init__(self, seconds=SLEEP_SECONDS):
        self.seconds = seconds
        self.took_ms = []

    def __call__(self):
        before = time.monotonic()
        time.sleep(self.seconds)
        self.took_ms.append(1000 * (time.monotonic() - before))


@pytest.mark.timing
def test_the_latency_agrees_with_an_independent_timing():
    run = Sleeper()
    latency = measure_latency(run, seconds=0.5)
    own = run.took_ms[-len(latency.samples_ms) :]
    assert latency.host.p50_ms == pytest.approx(1000 * SLEEP_SECONDS, rel=0.05)
    assert latency.host.p50_ms == pytest.approx(statistics.median(own), rel=0.05)
    assert latency.samples_ms == pytest.approx(own, rel=0.05)
    assert latency.compute is None


def test_there_are_as_many_runs_and_as_many_seconds_as_asked_for():
    run = Sleeper(0.002)
    few = measure(run, seconds=0, warm_up_ms=0, least_runs=7)
    assert len(few) == 7
    assert len(run.took_ms) == 8  # once to warm up
    many = measure(lambda: time.sleep(0.002), seconds=0.1, warm_up_ms=0, least_runs=1)
    assert sum(many) >= 98
    assert len(many) > 10


@pytest.mark.timing
def test_the_warm_up_is_not_counted():
    """The first runs are slow, as those of any library are that still compiles and allocates."""
    began = time.perf_counter()
    calls = []

    def run():
        slow = time.perf_counter() - began < 0.1
        calls.append(slow)
        time.sleep(0.03 if slow else 0.001)

    samples_ms = measure(run, seconds=0.05, warm_up_ms=200)
    assert any(calls)
    assert statistics.median(samples_ms) < 15


def test_a_gpu_s_own_times_come_beside_the_host_s():
    counter = itertools.count()

    def run_timed():
        next(counter)
        return StageTimes(1.0, 5.0, 2.0)

    latency = measure_latency(Sleeper(0.005), seconds=0.05, run_timed=run_timed)
    assert latency.host.p50_ms >= 5
    assert (latency.copy_in.p50_ms, latency.compute.p50_ms, latency.copy_out.p50_ms) == (1.0, 5.0, 2.0)
    assert 10 <= latency.compute.runs < next(counter)


def test_times_that_spread_are_doubted():
    steady, shaky = [10.0, 10.1, 9.9, 10.0], [10.0, 20.0, 5.0, 12.0]
    assert doubts(Latency(spread(steady), steady)) == []
    (one,) = doubts(Latency(spread(shaky), shaky))
    assert one.startswith("the latency is doubtful: 4 runs")
    # What the host forgives, a GPU's own clock does not.
    (other,) = doubts(Latency(spread(steady), steady, compute=spread([10.0, 10.8, 9.6, 10.2])))
    assert "GPU" in other


class SlottedStream:
    """As on a GPU: several frames at once on their way, one computed at a time; copying in goes on meanwhile."""

    def __init__(self, slots, seconds, size=(48, 64)):
        self.most_at_once = 0
        self.received = []
        self.took_seconds = []
        self._seconds = seconds
        self._size = size
        self._free = queue.Queue()
        for _ in range(slots):
            self._free.put(np.zeros((*size, 3), np.uint8))
        self._slots = slots
        self._work = queue.Queue()
        self._stopped = threading.Event()
        self._worker = threading.Thread(target=self._compute, daemon=True)
        self._worker.start()

    def _compute(self):
        while True:
            item = self._work.get()
            if item is None:
                return
            before = time.monotonic()
            time.sleep(self._seconds)
            self.took_seconds.append(time.monotonic() - before)
            item[1].set()

    def buffer(self):
        while not self._stopped.is_set():
            try:
                return self._free.get(timeout=0.05)
            except queue.Empty:
                continue
        return None

    def submit(self, frame):
        time.sleep(self._seconds / 2)
        self.received.append(frame.copy())
        self.most_at_once = max(self.most_at_once, self._slots - self._free.qsize())
        ready = threading.Event()
        self._work.put((frame, ready))
        return SlottedTicket(self, frame, ready)

    def give_back(self, frame):
        self._free.put(frame)

    def stop(self):
        self._stopped.set()

    def close(self):
        self._work.put(None)
        self._worker.join(5)


class SlottedTicket:
    def __init__(self, stream, frame, ready):
        self._stream, self._frame, self._ready = stream, frame, ready

    def __enter__(self):
        assert self._ready.wait(5)
        return self._frame

    def __exit__(self, *error):
        self._stream.give_back(self._frame)


@pytest.mark.timing
def test_a_stream_is_kept_full_and_its_images_counted():
    stream = SlottedStream(3, 0.03)
    images = [np.full((48, 64, 3), level, np.uint8) for level in (1, 2)]
    done = keep_stream_busy(stream, images, seconds=0.6, warm_up_ms=100)
    stream.close()
    # One after the other, with submitting them, they would take half as long again.
    assert images_per_second(done) == pytest.approx(1 / statistics.mean(stream.took_seconds), rel=0.05)
    assert stream.most_at_once == 3
    assert done == sorted(done)
    # Buffers are filled with the images, in turn.
    assert [int(frame.max()) for frame in stream.received[:4]] == [1, 2, 1, 2]


def test_a_stream_s_failure_is_passed_on_at_once():
    class Failing(SlottedStream):
        def submit(self, frame):
            raise MemoryError("no room")

    stream = Failing(2, 0.01)
    with pytest.raises(MemoryError, match="no room"):
        keep_stream_busy(stream, [np.zeros((48, 64, 3), np.uint8)], seconds=5)
    stream.close()


@pytest.mark.timing
def test_without_a_stream_batches_go_one_after_the_other():
    run = Sleeper()
    done = when_done(measure(run, seconds=0.4, warm_up_ms=0), 2)
    assert len(done) % 2 == 0
    assert done[0] == done[1] < done[2]
    own_ms = run.took_ms[-len(done) // 2 :]
    assert images_per_second(done) == pytest.approx(2000 / statistics.mean(own_ms), rel=0.05)


def test_a_steady_speed_is_steady_in_every_tenth():
    held = sustained([0.7 * index for index in range(1, 8)])
    assert held.seconds == pytest.approx(4.9)
    assert held.images_per_second == pytest.approx([1 / 0.7] * 10)


def test_a_speed_that_falls_is_seen_to_fall():
    quick = [0.01 * index for index in range(1, 501)]
    slow = [5 + 0.02 * index for index in range(1, 251)]
    held = sustained([*quick, *slow])
    assert held.images_per_second == pytest.approx([100] * 5 + [50] * 5)


def test_images_of_a_batch_count_as_many():
    held = sustained([1.0, 1.0, 2.0, 2.0])
    assert held.images_per_second == pytest.approx([2.0] * 10)


def test_a_throughput_of_no_images_is_refused():
    with pytest.raises(ValueError, match="no image"):
        images_per_second([])
    with pytest.raises(ValueError, match="no image"):
        sustained([])
