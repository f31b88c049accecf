"""Video through real pipes: headerless, as Y4M and as Matroska."""

import contextlib
import io
import os
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.runtime.container.stdio import PipeInput, PipeOutput
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.muxed import MuxedWriter
from overnet.runtime.video.raw import PipeReader, RawFormat, RawWriter, frame_bytes
from tests.conftest import write_clip


def images(count, width, height):
    random = np.random.default_rng(width)
    rows, columns = np.mgrid[0:height, 0:width]
    for index in range(count):
        rgb = np.stack([rows * 3, columns * 2 + index * 5, rows + columns], axis=-1)
        yield np.clip(rgb + random.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def y4m(count=5, size=(64, 48), pixel_format="yuv420p", rate=25):
    """Y4M by FFmpeg's own muxer."""
    file = io.BytesIO()
    with av.open(file, "w", format="yuv4mpegpipe") as output:
        stream = output.add_stream("wrapped_avframe", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        for rgb in images(count, *size):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture
def feed():
    """Give a pipe from which some bytes come, and then its end."""
    threads = []

    def start(data):
        read, write = os.pipe()

        def go():
            with os.fdopen(write, "wb") as file, contextlib.suppress(BrokenPipeError):
                file.write(data)

        threads.append((threading.Thread(target=go), read))
        threads[-1][0].start()
        return PipeInput(read)

    yield start
    for thread, read in threads:
        os.close(read)
        thread.join()


def written(write):
    """What comes out of a pipe that a function writes to."""
    read, end = os.pipe()
    came = []

    def go():
        with os.fdopen(read, "rb") as file:
            came.append(file.read())

    thread = threading.Thread(target=go)
    thread.start()
    pipe = PipeOutput(end)
    write(pipe)
    pipe.close()
    thread.join()
    return came[0]


@pytest.mark.parametrize("size", [(64, 48), (33, 25), (1, 1), (322, 2)], ids=str)
@pytest.mark.parametrize("pixel_format", [None, "yuv420p", "nv12", "rgb24", "bgr24", "yuv444p"])
def test_what_is_written_is_what_ffmpeg_reads(feed, size, pixel_format):
    """Read by us and, Y4M, by FFmpeg alone: the very planes that our conversion makes."""
    with PipeReader(feed(y4m(size=size))) as reader:
        frames, info = list(reader), reader.info

    def write(pipe):
        with RawWriter(pipe, OutputVideo(info, *size), pixel_format=pixel_format) as writer:
            for frame in frames:
                writer.write(frame)
            writer.finish()

    data = written(write)
    raw = None if pixel_format is None else RawFormat(size[0], size[1], pixel_format)
    with PipeReader(feed(data), raw=raw) as again:
        read = list(again)
    assert len(read) == 5 and again.notes == []
    if pixel_format in ("rgb24", "bgr24"):
        assert all((before.rgb == after.rgb).all() for before, after in zip(frames, read, strict=True))
    elif pixel_format is not None:
        assert len(data) == 5 * frame_bytes(pixel_format, *size)
    else:
        assert again.info.frame_rate == 25
        with av.open(io.BytesIO(data)) as file:
            planes = [frame.to_ndarray(format="yuv444p") for frame in file.decode(video=0)]
        assert len(planes) == 5
    # Chroma is halved once more at the most, so that images stay close.
    for before, after in zip(frames, read, strict=True):
        assert np.abs(before.rgb.astype(int) - after.rgb).mean() < 8


def test_the_y4m_header(feed):
    with PipeReader(feed(y4m(rate=Fraction(30000, 1001)))) as reader:
        frame, info = next(iter(reader)), reader.info

    def write(pipe):
        RawWriter(pipe, OutputVideo(info, 64, 48)).write(frame)

    header = written(write).split(b"\n")[0]
    assert header == b"YUV4MPEG2 W64 H48 F30000:1001 Ip A0:0 C420jpeg XYSCSS=420JPEG XCOLORRANGE=LIMITED"


def test_matroska_keeps_times_and_colours(feed, tmp_path):
    write_clip(tmp_path / "clip.mkv")
    with PipeReader(feed((tmp_path / "clip.mkv").read_bytes())) as reader:
        frames, info = list(reader), reader.info
    for index, frame in enumerate(frames):
        frame.pts += index * index  # any times but regular ones

    def write(pipe):
        with MuxedWriter.to_pipe(pipe, OutputVideo(info, 64, 48)) as writer:
            for frame in frames:
                writer.write(frame)
            writer.finish()

    with PipeReader(feed(written(write))) as again:
        read = list(again)
    assert [frame.pts * frame.time_base for frame in read] == [
        (frame.pts - frames[0].pts) * frame.time_base for frame in frames
    ]
    assert (again.info.color_as_tagged.matrix, again.info.codec) == (info.color.matrix, "rawvideo")


@pytest.mark.parametrize("missing", [1, 100, 4608, 4613])
def test_a_frame_that_is_cut_off(feed, missing):
    with PipeReader(feed(y4m()[:-missing])) as reader:
        assert len(list(reader)) == 4
    assert len(reader.notes) == 1 and reader.notes[0].startswith("the last frame was cut off after ")
    with PipeReader(feed(bytes(64 * 48 * 3 * 3 + missing)), raw=RawFormat(64, 48)) as reader:
        assert len(list(reader)) == 3
    assert len(reader.notes) == 1 and "(is --raw 64x48 right?)" in reader.notes[0]


def test_a_part(feed):
    with PipeReader(feed(y4m(20)), start_seconds=0.2, max_frames=3) as reader:
        assert [frame.pts * frame.time_base for frame in reader] == [Fraction(n, 25) for n in (5, 6, 7)]
    with pytest.raises(InputError, match="ends before the start"):
        PipeReader(feed(y4m(5)), start_seconds=5)


def test_sound_in_a_pipe_is_told_of(feed, tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as output:
        video, sound = output.add_stream("libx264", rate=25), output.add_stream("flac", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        audio.sample_rate = 48000
        output.mux(sound.encode(audio))
        for rgb in images(3, 64, 48):
            output.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    with PipeReader(feed(path.read_bytes())) as reader:
        assert len(list(reader)) == 3
    assert "only the image is read from a pipe" in reader.notes[0]


@pytest.mark.parametrize(
    ("data", "raw", "reason"),
    [
        (b"", None, "standard input is empty"),
        (b"not a video" * 50, None, "--raw WIDTHxHEIGHT"),
        (b"", RawFormat(64, 48), "gave 0 bytes, and one frame of 64x48 rgb24 has 9216"),
        (b"abc", RawFormat(64, 48), "gave 3 bytes"),
        (y4m()[:200], None, "no image in it can be decoded"),
        (b"YUV4MPEG2 W64", None, "standard input"),
    ],
)
def test_what_is_no_video(feed, data, raw, reason):
    with pytest.raises(InputError, match=reason):
        PipeReader(feed(data), raw=raw)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"width": 0}, "0x48"),
        ({"height": 99999}, "sides"),
        ({"pixel_format": "nonsense"}, "no pixel format is named 'nonsense'"),
        ({"rate": Fraction(0)}, "rate is 0"),
    ],
)
def test_raw_formats_that_cannot_be(options, reason):
    with pytest.raises(InputError, match=reason):
        RawFormat(**{"width": 64, "height": 48, **options})


def test_waiting_for_a_pipe_can_be_stopped():
    read, write = os.pipe()
    pipe = PipeInput(read)
    threading.Timer(0.3, pipe.stop).start()
    began = time.monotonic()
    assert pipe.read() == b""
    assert time.monotonic() - began < 1
    os.close(read)
    os.close(write)


def test_writing_waits_for_the_reader_and_can_be_stopped():
    read, write = os.pipe()
    pipe = PipeOutput(write)
    raised = []

    def fill():
        try:
            pipe.write(bytes(1 << 20))
        except BrokenPipeError as error:
            raised.append(error)

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive(), "back-pressure: nobody has read"
    first = os.read(read, 1 << 16)
    assert thread.is_alive() and first
    pipe.stop()
    thread.join(5)
    assert raised
    os.close(read)
    with pytest.raises(BrokenPipeError):
        pipe.write(b"x")
    pipe.close()
