import subprocess
import sys
import threading
import time

import pytest

from overnet.runtime.pipeline import run_pipeline
from tests.conftest import ROOT


def test_frames_keep_their_order():
    encoded = []
    report = run_pipeline(iter(range(200)), lambda frame: frame * 2, encoded.append)
    assert encoded == [frame * 2 for frame in range(200)]
    assert report.frames == 200
    assert not report.interrupted


@pytest.mark.timing
def test_stages_overlap():
    """Three stages of 20 ms a frame take little more than 20 ms a frame together, not 60."""

    def frames():
        for frame in range(20):
            time.sleep(0.02)
            yield frame

    def work(frame):
        time.sleep(0.02)
        return frame

    report = run_pipeline(frames(), work, work)
    assert report.wall_seconds < 20 * 0.06 * 0.7
    for spent in (report.decode_seconds, report.upscale_seconds, report.encode_seconds):
        assert spent == pytest.approx(20 * 0.02, rel=0.5)


@pytest.mark.parametrize("slow", ["upscale", "encode"])
def test_few_frames_wait_between_stages(slow):
    alive, most = set(), 0

    def frames():
        nonlocal most
        for frame in range(60):
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    def upscale(frame):
        time.sleep(0.002 if slow == "upscale" else 0)
        return frame

    def encode(frame):
        time.sleep(0.002 if slow == "encode" else 0)
        alive.discard(frame)

    run_pipeline(frames(), upscale, encode, depth=2)
    # Two queues of two, and one frame in the hands of each stage.
    assert most <= 2 * 2 + 3


@pytest.mark.parametrize("stage", ["decode", "upscale", "encode"])
@pytest.mark.parametrize("at", [0, 7])
def test_an_error_anywhere_ends_everything_with_that_error(stage, at):
    class TroubleError(Exception):
        pass

    def frames():
        for frame in range(1000):
            if stage == "decode" and frame == at:
                raise TroubleError
            yield frame

    def work(name):
        def do(frame):
            if stage == name and frame == at:
                raise TroubleError
            return frame

        return do

    before = threading.active_count()
    began = time.perf_counter()
    with pytest.raises(TroubleError):
        run_pipeline(frames(), work("upscale"), work("encode"))
    assert time.perf_counter() - began < 5
    assert threading.active_count() == before


def test_an_error_does_not_wait_for_a_source_without_end():
    def endless():
        while True:
            yield 1

    def fail(frame):
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        run_pipeline(endless(), lambda frame: frame, fail)


def test_interruption_encodes_what_was_upscaled():
    encoded = []

    def upscale(frame):
        if frame == 25:
            raise KeyboardInterrupt
        return frame

    def encode(frame):
        time.sleep(0.005)
        encoded.append(frame)

    report = run_pipeline(iter(range(1000)), upscale, encode)
    assert report.interrupted
    assert encoded == list(range(25))
    assert report.frames == 25


INTERRUPTED = """
import os, signal, threading, time
from overnet.runtime.pipeline import run_pipeline

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("overnet")]

def encode(frame):
    time.sleep(0.2)
    encoded.append(frame)

encoded = []
for delays in ([0.5], [0.3, 0.4, 0.5, 0.6]):
    encoded.clear()
    for delay in delays:
        threading.Timer(delay, interrupt).start()
    # All are upscaled at once: the main thread waits for the encoder, as at the end of every video.
    report = run_pipeline(iter(range(5)), lambda frame: frame, encode)
    assert report.interrupted and encoded == [0, 1, 2, 3, 4] and not left(), (report, encoded, left())

def frames():
    interrupt()
    yield from range(100)

for _ in range(20):
    # In the middle of starting the threads.
    assert run_pipeline(frames(), lambda frame: frame, lambda frame: None).interrupted
assert not left(), left()
print("well")
"""


def test_ctrl_c_while_threads_start_and_end_leaves_none_running():
    """Until Python 3.12, Ctrl-C inside of Thread.join marks a thread as ended that still runs."""
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "well\n"), result.stderr


INTERRUPTED_ANYWHERE = """
import os, signal, sys, threading
from overnet.runtime.pipeline import run_pipeline

counted, chosen = 0, 0

def count(frame, event, argument):
    global counted
    frame.f_trace_opcodes = True
    if event == "opcode":
        counted += 1
        if counted == chosen:
            os.kill(os.getpid(), signal.SIGINT)
    return count

def run(number):
    global counted, chosen
    counted, chosen = 0, number
    sys.settrace(count)  # of this thread, which is the main one
    try:
        return run_pipeline(iter(range(3)), lambda frame: frame, lambda frame: None).interrupted
    except KeyboardInterrupt:
        return None  # before the pipeline notes signals, or after
    finally:
        sys.settrace(None)

run(0)
outcomes = []
for number in range(1, counted, counted // 150):
    outcomes.append(run(number))
    for thread in threading.enumerate():
        if thread.name in ("overnet-decode", "overnet-encode"):
            thread.join(5)
            assert not thread.is_alive(), (number, thread)
assert outcomes.count(True) > 20
print("well")
"""


def test_ctrl_c_at_any_instruction_leaves_no_thread_waiting():
    """An exception within `threading.Condition` left a lock held, for which all threads waited for ever."""
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_ANYWHERE],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "well\n"), result.stderr


def test_no_frames():
    assert run_pipeline(iter(()), lambda frame: frame, lambda frame: None).frames == 0


def test_progress_counts_every_frame():
    seen = []
    run_pipeline(iter(range(9)), lambda f: f, lambda f: None, on_frame=lambda report: seen.append(report.wall_seconds))
    assert len(seen) == 9
    assert seen == sorted(seen)
