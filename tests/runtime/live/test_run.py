"""The newest frame and never a queue, with sources, models and sinks that are slow on purpose."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from overnet import Upscaler
from overnet.errors import BackendError, InputError, OutputError
from overnet.runtime.live.constant_rate import ConstantRate
from overnet.runtime.live.report import Latencies
from overnet.runtime.live.run import LiveLimits, Mailbox, run_live
from overnet.runtime.live.source import CapturedFrame, LiveSource
from overnet.runtime.video.color import ColorTags
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.frame import Frame, FrameWriter, VideoInfo
from overnet.runtime.video.writer import VideoWriter
from tests.support.direct_stream import DirectStream

_TAGS = ColorTags(1, 1, 1, full_range=False)
_INFO = VideoInfo(64, 48, Fraction(50), Fraction(1, 90000), 8, "yuv420p", "h264", _TAGS, _TAGS)


class Camera:
    """Gives frames at a rate; the number of each is its grey level."""

    name = "camera"
    reconnections = 0

    def __init__(self, count, rate=100, sizes=None, error=None):
        self._count, self._rate, self._error = count, rate, error
        self._sizes = sizes or (lambda index: (64, 48))
        self.stopped = threading.Event()

    def frames(self):
        began = time.monotonic()
        for index in range(self._count):
            self.stopped.wait(max(0, began + index / self._rate - time.monotonic()))
            if self.stopped.is_set():
                return
            width, height = self._sizes(index)
            info = replace(_INFO, width=width, height=height)
            level = index % 256

            def pixels(out, height=height, width=width, level=level):
                return np.full((height, width, 3), level, np.uint8)

            yield CapturedFrame(time.monotonic(), info, pixels)
        if self._error is not None:
            raise self._error

    def stop(self):
        self.stopped.set()


class Enlarger:
    """In place of an upscaler: enlarges by repeating pixels, as slowly as it is told."""

    backend_name = "enlarger"

    def __init__(self, seconds=0.0, error_at=None):
        self.seconds, self.calls, self._error_at = seconds, 0, error_at

    def output_size(self, height, width, *, even_width=False):
        return 2 * height, 2 * width

    def stream(self, height, width, *, even_width=False, rate=None):
        return DirectStream(self._upscale)

    def _upscale(self, frame):
        self.calls += 1
        if self.calls == self._error_at:
            raise BackendError("the GPU is gone")
        time.sleep(self.seconds)
        return frame.repeat(2, axis=0).repeat(2, axis=1)

    def pop_notes(self):
        return ["enlarged"]


class Sink(FrameWriter):
    """Keeps what is written, as slowly as it is told."""

    def __init__(self, seconds=0.0, error_at=None):
        self.seconds, self.levels, self.frames, self.notes, self.ended = seconds, [], [], [], None
        self.opened = []
        self._error_at = error_at

    def open(self, info, width, height):
        self.opened.append((info, width, height))
        return self

    def abort(self):
        self.ended = self.ended or "dropped"

    def write(self, frame):
        if len(self.frames) + 1 == self._error_at:
            raise OutputError("the disk is full")
        time.sleep(self.seconds)
        self.levels.append(int(frame.rgb[0, 0, 0]))
        self.frames.append((frame.pts, frame.rgb.shape))

    def finish(self):
        self.ended = "finished"
        return Path("sink")

    finish_partial = finish


@pytest.mark.timing
def test_a_fast_model_takes_every_frame():
    sink = Sink()
    # So slow that a machine that is busy with other things keeps up.
    outcome = run_live(Camera(12, rate=8), Enlarger(), sink.open)
    report = outcome.report
    assert (report.captured, report.frames, report.dropped) == (12, 12, 0)
    assert sink.levels == list(range(12))
    assert (outcome.output, sink.ended) == ("sink", "finished")
    assert report.latency.max_seconds < 0.25
    assert (report.input_size, report.output_size) == ((64, 48), (128, 96))
    assert report.notes == ["enlarged"]
    assert report.frames_per_second == pytest.approx(8, rel=0.2)


@pytest.mark.timing
@pytest.mark.parametrize(("model", "sink_takes"), [(0.05, 0.0), (0.0, 0.05), (0.05, 0.05)])
def test_a_slow_model_or_sink_drops_frames_and_stays_in_step(model, sink_takes):
    """However long it goes on, no frame is older than the work on it and on the one before."""
    sink = Sink(sink_takes)
    report = run_live(Camera(120), Enlarger(model), sink.open).report
    # Of those that came during the warm-up only the last counts.
    at_first = next((int(note.split()[0]) for note in report.notes if "before the model was ready" in note), 0)
    assert report.captured == 120 - at_first and at_first < 50
    assert report.dropped == report.captured - len(sink.levels) and 60 < report.dropped < 111
    assert sink.levels == sorted(set(sink.levels)), "in order, none twice"
    assert sink.levels[-1] == 119, "the last frame of a video that ends is not lost"
    assert report.latency.quantile(0.5) < 0.16
    assert report.latency.max_seconds < 0.3
    times = [pts for pts, _ in sink.frames]
    assert times == sorted(times) and times[-1] == pytest.approx(1200, abs=150), "by when they were captured"


@pytest.mark.timing
def test_limits():
    sink = Sink()
    camera = Camera(10_000)
    report = run_live(camera, Enlarger(), sink.open, limits=LiveLimits(frames=7)).report
    assert len(sink.levels) == report.frames == 7 and camera.stopped.is_set()
    began = time.monotonic()
    report = run_live(Camera(10_000), Enlarger(), Sink().open, limits=LiveLimits(seconds=0.5)).report
    assert 0.5 <= time.monotonic() - began < 1.5
    assert 25 < report.frames <= 60


class SlowToFinish(Sink):
    def finish(self):
        time.sleep(0.1)
        return super().finish()


def test_a_source_is_closed_after_the_recording_is_complete():
    """GStreamer's RTSP source ended the process while it was closed, and the recording was lost."""
    sink, ended = SlowToFinish(), []

    @contextmanager
    def connect():
        try:
            yield Camera(10_000).frames()
        finally:
            ended.append(sink.ended)

    run_live(LiveSource("camera", connect), Enlarger(), sink.open, limits=LiveLimits(frames=3))
    assert ended == ["finished"]


def test_another_size_in_mid_stream():
    sink = Sink()
    camera = Camera(60, sizes=lambda index: (64, 48) if index < 30 else (32, 24))
    report = run_live(camera, Enlarger(), sink.open).report
    assert {shape for _, shape in sink.frames} == {(96, 128, 3)}
    assert len(sink.opened) == 1
    assert sink.levels[-1] == 59
    assert report.notes[0].startswith("the source changed its size: later frames are resized to 128x96")
    assert report.output_size == (64, 48)


def test_failures_of_model_sink_and_source():
    with pytest.raises(InputError, match="camera: it ended before the first frame"):
        run_live(Camera(0), Enlarger(), Sink().open)
    with pytest.raises(InputError, match="no such camera"):
        run_live(Camera(0, error=InputError("no such camera")), Enlarger(), Sink().open)
    sink = Sink(error_at=5)
    with pytest.raises(OutputError, match="full"):
        run_live(Camera(10_000), Enlarger(), sink.open)
    assert sink.ended == "dropped"
    with pytest.raises(ZeroDivisionError):
        run_live(Camera(10_000), Enlarger(), lambda *_: 1 / 0)


def test_what_was_recorded_before_a_failure_is_kept():
    sink = Sink()
    with pytest.raises(BackendError, match="GPU"):
        run_live(Camera(10_000), Enlarger(error_at=10), sink.open)
    assert sink.ended == "finished" and sink.levels
    sink = Sink()
    outcome = run_live(Camera(10, error=InputError("unplugged")), Enlarger(), sink.open)
    assert sink.ended == "finished" and sink.levels[-1] <= 9
    assert str(outcome.lost) == "unplugged" and outcome.output == "sink"


class Screen:
    def __init__(self, closes_after=10_000):
        self.shown, self.lines, self._closes_after = [], [], closes_after
        self.threads = set()

    def show(self, rgb, line):
        self.threads.add(threading.current_thread())
        self.shown.append(int(rgb[0, 0, 0]))
        self.lines.append(line)

    def poll(self):
        time.sleep(0.005)
        return len(self.shown) < self._closes_after


@pytest.mark.timing
def test_a_preview_alone():
    screen = Screen(closes_after=12)
    outcome = run_live(Camera(10_000), Enlarger(), None, preview=screen)
    assert screen.threads == {threading.main_thread()}
    assert outcome.report.frames == outcome.report.shown == 12 == len(screen.shown)
    assert screen.shown == sorted(set(screen.shown))
    assert outcome.output is None
    assert "fps, latency" in screen.lines[-1] and "dropped" in screen.lines[-1]
    assert 0 < outcome.report.latency.max_seconds < 0.3


def test_a_preview_beside_a_sink():
    screen, sink = Screen(), Sink()
    report = run_live(Camera(40), Enlarger(), sink.open, preview=screen).report
    assert report.frames == len(sink.levels) and 5 < report.shown == len(screen.shown) <= 40


class SlowWriter(VideoWriter):
    def write(self, frame):
        time.sleep(0.05)
        super().write(frame)


def test_a_recording_has_the_times_of_capture(tmp_path, small_models):
    """A real network and a real file: frames dropped, times kept."""
    path = tmp_path / "live.mkv"

    def slow(info, width, height):
        return SlowWriter(path, OutputVideo(info, width, height), source=None)

    with Upscaler(2, model=small_models) as upscaler:
        report = run_live(Camera(100, rate=50), upscaler, slow).report
    assert report.dropped > 40
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
    assert len(frames) == report.frames
    assert (frames[0].width, frames[0].height) == (128, 96)
    assert frames[0].pts == 0
    assert 1.7 < frames[-1].time < 2.3, "as long as it took, though frames are missing"


def test_the_mailbox():
    first, second = (CapturedFrame(at, _INFO, lambda out: out) for at in (1.0, 2.0))
    box = Mailbox()
    assert box.take(wait=False) is None
    box.put(first)
    box.put(second)
    assert box.take() is second and box.take(wait=False) is None
    box.put(first)
    box.end()
    box.put(second)
    assert box.take() is first and box.take() is None
    box = Mailbox()
    box.put(first)
    box.end(drop=True)
    assert box.take() is None


def test_latencies_are_exact_to_two_percent():
    latencies = Latencies()
    assert latencies.to_json() == {"p50": 0.0, "p95": 0.0, "max": 0.0}
    values = np.random.default_rng(1).lognormal(-3, 1, 5000)
    for value in values:
        latencies.add(value)
    for share in (0.01, 0.5, 0.95, 1.0):
        assert latencies.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.03)
    assert latencies.max_seconds == values.max()


def test_a_constant_rate():
    """Frames repeated to keep the time, left out where two fall together, and no filling of a long gap."""
    sink = Sink()
    writer = ConstantRate(sink, Fraction(10))
    for pts, level in [(0, 1), (100, 2), (110, 3), (400, 4), (500, 5), (9000, 6), (9100, 7)]:
        writer.write(Frame(np.full((1, 1, 3), level, np.uint8), pts, Fraction(1, 1000), 1))
    assert sink.levels == [1, 2, 4, 4, 4, 5, 6, 7]
    assert writer.finish() == Path("sink")
