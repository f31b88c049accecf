"""Connections that are lost and come again, and cameras."""

import contextlib
import http.server
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.runtime.live.ffmpeg_source import connect_camera, connect_network
from overnet.runtime.live.source import CapturedFrame, ConnectionLost, LiveSource, Pacer, backoff_seconds
from tests.conftest import write_clip


def frames(count):
    return [CapturedFrame(time.monotonic(), None, lambda out: np.zeros((2, 2, 3), np.uint8)) for _ in range(count)]


def connections(*plan):
    """A source that goes through a plan: a number of frames, then an error or None for the end."""
    left = list(plan)

    @contextlib.contextmanager
    def connect():
        count, error = left.pop(0)

        def give():
            yield from frames(count)
            if error is not None:
                raise error

        yield give()

    return connect


@pytest.fixture
def no_waiting(monkeypatch):
    waited = []

    def note(failures):
        waited.append(failures)
        return 0

    monkeypatch.setattr("overnet.runtime.live.source.backoff_seconds", note)
    return waited


def test_what_is_lost_is_connected_to_again(no_waiting):
    told = []
    lost = ConnectionLost("the cable")
    source = LiveSource(
        "cam",
        connections((2, lost), (0, lost), (0, None), (3, lost), (0, lost), (0, lost), (0, lost), (0, lost)),
        attempts=3,
        on_trouble=told.append,
    )
    seen = []
    with pytest.raises(InputError, match=r"cam: the cable \(tried again 3 times\)"):
        seen.extend(source.frames())
    assert source.reconnections == 1
    assert no_waiting == [1, 2, 3, 1, 2, 3]
    assert told[0] == "cam: the cable; trying again in 0.0 s"


def test_attempts_are_counted_anew_after_a_frame(no_waiting):
    lost = ConnectionLost("gone")
    plan = [(1, lost)] * 6 + [(0, lost)]
    source = LiveSource("cam", connections(*plan), attempts=0)
    with pytest.raises(InputError, match=r"cam: gone$"):
        list(source.frames())
    source = LiveSource("cam", connections(*plan, (0, lost)), attempts=1)
    seen = []
    with pytest.raises(InputError, match="gone"):
        for frame in source.frames():
            seen.append(frame)
    assert len(seen) == 6 and source.reconnections == 5


def test_what_will_never_work_is_not_tried_again():
    source = LiveSource("cam", connections((0, ConnectionLost("no such stream", is_final=True))))
    with pytest.raises(InputError, match="cam: no such stream"):
        list(source.frames())


def test_what_has_worked_is_tried_again_whatever_the_error(no_waiting):
    refused = ConnectionLost("404", is_final=True)
    source = LiveSource("cam", connections((1, refused), (0, refused), (1, None)), may_end=True)
    assert len(list(source.frames())) == 2
    assert source.reconnections == 1


def test_stop_ends_the_waiting():
    source = LiveSource("cam", connections(*[(0, ConnectionLost("gone"))] * 100))
    thread = threading.Thread(target=lambda: list(source.frames()))
    thread.start()
    time.sleep(0.7)
    source.stop()
    thread.join(0.5)
    assert not thread.is_alive()


def test_the_back_off_doubles_up_to_ten_seconds():
    for failures, expected in [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 10), (7, 10), (5000, 10)]:
        waits = [backoff_seconds(failures) for _ in range(50)]
        assert expected * 0.75 <= min(waits) < max(waits) <= expected * 1.25


@pytest.mark.timing
def test_the_pacer_keeps_a_clock_and_begins_a_new_one():
    pacer = Pacer(longest_seconds=1)
    began = time.monotonic()
    for index in range(5):
        pacer.wait(100 + index * 0.05)
    assert 0.18 < time.monotonic() - began < 0.4
    pacer.wait(5000)  # another clock
    pacer.wait(None)
    assert time.monotonic() - began < 0.45


@pytest.mark.timing
def test_a_camera():
    """There is no camera on this machine: FFmpeg's test image takes the place of its driver, and of that alone."""
    with connect_camera("testsrc=size=80x60:rate=50,realtime", driver="lavfi") as captured:
        began = time.monotonic()
        taken = [next(captured) for _ in range(25)]
    assert 0.3 < time.monotonic() - began < 2
    info = taken[0].info
    assert (info.width, info.height, info.frame_rate) == (80, 60, Fraction(50))
    rgb = taken[0].pixels(None)
    assert rgb.shape == (60, 80, 3) and rgb.std() > 40
    out = np.empty_like(rgb)
    assert taken[0].pixels(out) is out and (out == rgb).all()
    assert all(0 <= frame.at - began < 2 for frame in taken)


def test_a_camera_that_is_not_there():
    with pytest.raises(ConnectionLost, match="there is no /dev/video97") as caught, connect_camera("/dev/video97"):
        pass
    assert caught.value.is_final


@pytest.fixture
def web(tmp_path):
    """A web server over a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(tmp_path), **options)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path
    server.shutdown()
    thread.join()
    server.server_close()


def write_live(folder, *, frames):
    """Write live.mkv as a server sends it: without a duration."""
    write_clip(folder / "clip.mp4", frames=frames)
    live = av.open(str(folder / "live.mkv"), "w", container_options={"live": "1"})
    with av.open(str(folder / "clip.mp4")) as given, live as output:
        copy = output.add_stream_from_template(given.streams.video[0], opaque=True)
        for packet in given.demux():
            if packet.size:
                packet.stream = copy
                output.mux(packet)


def test_a_stream_over_http_comes_at_its_own_pace(web):
    url, folder = web
    write_live(folder, frames=20)
    began = time.monotonic()
    source = LiveSource("web", lambda: connect_network(f"{url}/live.mkv"), may_end=True)
    assert len(list(source.frames())) == 20
    assert 0.5 < time.monotonic() - began < 3


def test_a_finite_video_over_http_is_not_taken_for_live(web):
    url, folder = web
    write_clip(folder / "clip.mp4", frames=20)
    source = LiveSource("web", lambda: connect_network(f"{url}/clip.mp4"), may_end=True)
    with pytest.raises(InputError, match=r"finite video of 0.8 s.*download it first"):
        list(source.frames())


def test_a_playlist_over_http_opens_no_file_of_this_machine(web, monkeypatch):
    # Without the file that it names the playlist is read again and again.
    monkeypatch.setattr("overnet.runtime.live.ffmpeg_source.OPEN_SECONDS", 1.0)
    url, folder = web
    write_clip(folder / "clip.mp4", frames=20)
    (folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile file:{folder / 'clip.mp4'}\n")
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{folder / 'clip.mp4'}\n")
    for name in ("list.ffconcat", "list.m3u8"):
        with pytest.raises(InputError):
            list(LiveSource("web", lambda: connect_network(f"{url}/{name}"), attempts=0).frames())  # noqa: B023


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.mp4", "404"), ("text.txt", "a text file"), ("sound.wav", "no video stream")],
)
def test_what_is_no_video_over_http(web, name, reason):
    url, folder = web
    (folder / "text.txt").write_text("no video at all " * 100)
    (folder / "sound.wav").write_bytes(
        b"RIFF"
        + (36 + 800).to_bytes(4, "little")
        + b"WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data"
        + (800).to_bytes(4, "little")
        + bytes(800)
    )
    source = LiveSource("web", lambda: connect_network(f"{url}/{name}"))
    with pytest.raises(InputError, match=reason):
        list(source.frames())


def test_a_password_is_in_no_message():
    with pytest.raises(ConnectionLost) as caught, connect_network("rtsp://joe:hush@127.0.0.1:9/x"):
        pass
    assert str(caught.value) == "Connection refused"
    assert not caught.value.is_final
