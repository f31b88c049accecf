"""Against a real RTSP server, which is killed, frozen and started again in mid-stream."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from overnet.errors import InputError, OutputError
from overnet.runtime.live.addresses import parse_address
from overnet.runtime.live.open import LiveSink, SourceOptions, open_live_source
from overnet.runtime.live.run import LiveLimits, run_live
from tests.runtime.live.test_run import Enlarger, Sink
from tests.support.needs_live import RtspCamera, free_port
from tests.support.rtsp_server import age_of


class AgeSink(Sink):
    """Notes how old each image is: its grey level says when the server made it."""

    def __init__(self, seconds=0.0):
        super().__init__(seconds)
        self.ages, self.moments = [], []

    def write(self, frame):
        self.moments.append(time.monotonic())
        # A moment too young is as a moment too old by the length of the scale.
        age = age_of(float(frame.rgb.mean()), time.time())
        self.ages.append(age if age < 1.9 else 0.0)
        super().write(frame)


@contextlib.contextmanager
def running(camera, sink, *, upscaler=None, path="/live", **limits):
    """A live run in a thread beside the test; gives its messages, and its outcome once the block has ended."""
    told, result = [], {}
    address = parse_address(camera.url(path).replace("rtsp://", "rtsp://joe:hush@"))
    source = open_live_source(address, SourceOptions(), told.append)

    def run():
        result["outcome"] = run_live(source, upscaler or Enlarger(), sink.open, limits=LiveLimits(**limits))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield told, result
    finally:
        thread.join()


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_and_started_again():
    sink = AgeSink()
    with RtspCamera() as camera:
        with running(camera, sink, frames=60, seconds=20.0) as (told, result):
            wait_until(lambda: len(sink.frames) >= 30)
            camera.kill()
            before = len(sink.frames)
            wait_until(lambda: len(told) >= 2)
            camera.start()
            started = time.monotonic()
            wait_until(lambda: len(sink.frames) > before + 10)
            back = next(moment for moment in sink.moments if moment > started) - started
        report = result["outcome"].report
    assert report.reconnections == 1
    assert back < 6, f"frames came {back:.1f} s after the server was there again"
    assert report.frames > before + 10 and report.dropped < 10
    assert np.median(sink.ages) < 0.3, "from the server's image to ours"
    assert report.latency.quantile(0.5) < 0.1
    assert all("hush" not in line and "joe" not in line for line in told)
    assert told[0].startswith(f"rtsp://***@127.0.0.1:{camera.port}/live: ") and "trying again in" in told[0]
    assert result["outcome"].lost is None


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(300)
def test_a_model_that_is_slower_than_the_camera():
    """Over seconds, the images do not get older: what cannot be done is dropped, and counted."""
    sink = AgeSink()
    with RtspCamera() as camera, running(camera, sink, upscaler=Enlarger(0.15), seconds=4.5) as (_, result):
        pass
    report = result["outcome"].report
    assert report.captured > 100 and report.dropped > report.captured * 0.6
    assert report.dropped == report.captured - len(sink.frames)
    assert np.quantile(sink.ages, 0.9) < 0.6 and np.median(sink.ages[-10:]) < 0.5
    assert report.latency.max_seconds < 0.6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_freezes():
    """The connection stays and nothing comes: noticed after five seconds or so."""
    sink = AgeSink()
    with RtspCamera() as camera:
        with running(camera, sink, seconds=13.0) as (told, result):
            wait_until(lambda: len(sink.frames) >= 20)
            os.kill(camera.process.pid, signal.SIGSTOP)
            frozen = time.monotonic()
            wait_until(lambda: told)
            noticed = time.monotonic() - frozen
            camera.kill()
            camera.start()
            before = len(sink.frames)
            wait_until(lambda: len(sink.frames) > before + 10)
        assert 1 < noticed < 9
        assert "nothing came" in told[0]
        assert result["outcome"].report.reconnections == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_comes_later():
    sink, camera = AgeSink(), RtspCamera()
    with running(camera, sink, frames=5) as (told, result):
        wait_until(lambda: len(told) >= 2)
        with camera:
            wait_until(lambda: "outcome" in result)
    assert len(sink.frames) == 5
    assert result["outcome"].report.reconnections == 0
    assert "Connection refused" in told[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("path", "reason"), [("/nothing", "404"), ("/sound", "no video stream")])
def test_what_is_not_on_the_server(path, reason):
    """It will not be there the next time either: one error, at once."""
    with RtspCamera() as camera:
        source = open_live_source(parse_address(camera.url(path)), SourceOptions(), lambda line: None)
        with pytest.raises(InputError, match=reason):
            run_live(source, Enlarger(), Sink().open)


@pytest.mark.slow
def test_pushing_to_a_server():
    """FFmpeg itself listens, as a server would: what it gets are the images, as they come."""
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    levels = []

    def receive():
        with av.open(url, options={"rtsp_flags": "listen", "listen_timeout": "20"}) as received:
            for frame in received.decode(video=0):
                levels.append(float(frame.to_ndarray(format="rgb24").mean()))

    thread = threading.Thread(target=receive)
    thread.start()
    time.sleep(0.5)
    from tests.runtime.live.test_run import Camera

    outcome = run_live(Camera(60, rate=30), Enlarger(), LiveSink(parse_address(url)).open)
    thread.join(30)
    assert outcome.report.frames > 50
    assert len(levels) > 40
    assert levels == sorted(levels) and levels[-1] == pytest.approx(59, abs=4)


def test_pushing_to_nobody():
    from tests.runtime.live.test_run import Camera

    url = f"rtsp://joe:hush@127.0.0.1:{free_port()}/live"
    with pytest.raises(OutputError, match=r"rtsp://\*\*\*@127.0.0.1:\d+/live cannot be written to: Connection refused"):
        run_live(Camera(60), Enlarger(), LiveSink(parse_address(url)).open)
    assert not Path("-").exists()
