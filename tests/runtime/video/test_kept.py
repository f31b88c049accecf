"""What a container cannot say is written into pixels and samples, or named."""

import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.container.stdio import PipeInput
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding
from overnet.runtime.video.frame import Frame
from overnet.runtime.video.raw import PipeReader
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter
from tests.conftest import SHARED, needs_shared
from tests.support.clips import Clip, enlarged, images, open_writer, times_of, upscale

CASES = SHARED / "cases/files"
RATE = Fraction(25)
UNIT = 65536
# Display matrices by the rows of their upper left part, and what they do to an image.
MATRICES = {
    "mirrored": ((-UNIT, 0, 0, UNIT), np.fliplr),
    "upside down": ((UNIT, 0, 0, -UNIT), np.flipud),
    "half a turn": ((-UNIT, 0, 0, -UNIT), lambda image: np.rot90(image, 2)),
    "a turn to the left": ((0, -UNIT, UNIT, 0), np.rot90),
    "a turn to the right": ((0, UNIT, -UNIT, 0), lambda image: np.rot90(image, -1)),
    "transposed": ((0, UNIT, UNIT, 0), lambda image: image.transpose(1, 0, 2)),
}


def with_matrix(path, terms):
    """Write a clip with a display matrix."""
    a, b, c, d = terms
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        for image in images(4):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        output.mux(stream.encode(None))
    return path


@pytest.mark.skipif(not hasattr(VideoStream, "set_display_matrix"), reason="older PyAV cannot make the source")
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_orientation(tmp_path, name, suffix):
    terms, shown = MATRICES[name]
    source = with_matrix(tmp_path / "in.mp4", terms)
    path = upscale(source, tmp_path / f"out{suffix}", crf=1).path
    with VideoReader(source) as reader, VideoReader(path) as written:
        expected = shown(enlarged(next(iter(reader)).rgb, 2))
        frame = written.info.orientation.apply(next(iter(written)).rgb)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 4
    if suffix == ".avi":
        with open_writer(source, tmp_path / "sized.avi") as writer:
            assert writer.size == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_has_the_tag_that_every_player_takes(tmp_path, suffix):
    path = upscale(Clip(frames=images(3)).make(tmp_path / "in.mp4"), tmp_path / f"out{suffix}", codec="hevc").path
    with av.open(str(path)) as made:
        assert made.streams.video[0].codec_context.codec_tag == "hvc1"


def shown_at(path, seconds):
    """Return the mean level of the image that is on screen at a time counted from the first one."""
    with av.open(str(path)) as made:
        frames = [
            (frame.pts * frame.time_base, frame.to_ndarray(format="gray").mean()) for frame in made.decode(video=0)
        ]
    return [level for at, level in frames if at - frames[0][0] <= seconds + Fraction(1, 1000)][-1]


def test_a_variable_rate_keeps_its_times_on_a_constant_grid(tmp_path):
    ticks = [0, 40, 80, 800, 880, 1000, 2040, 2080]
    frames = [np.full((48, 64, 3), 20 + 25 * index, np.uint8) for index in range(8)]
    clip = Clip(frames=frames, rate=RATE, time_base=Fraction(1, 1000), pts=ticks, options={"bf": "0", "crf": "1"})
    source = clip.make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / "out.avi", crf=1)
    assert len(times_of(result.path)) == 53
    assert any("constant 25 frames per second: frames that last longer are repeated" in note for note in result.notes)
    for seconds in (0, 0.04, 0.5, 0.8, 0.9, 1.5, 2.04, 2.08):
        assert shown_at(result.path, seconds) == pytest.approx(shown_at(source, seconds), abs=3)


def test_the_last_image_is_held_on_a_constant_grid(tmp_path):
    frames = images(4)
    source = tmp_path / "in.apng"
    with av.open(str(source), "w", format="apng") as output:
        stream = output.add_stream("apng", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        stream.codec_context.time_base = Fraction(1, 10)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = (index if index < 3 else 30), Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoReader(source) as reader:
        given = [(frame.pts + frame.duration) * frame.time_base for frame in reader][-1]
    result = upscale(source, tmp_path / "out.avi")
    with av.open(str(result.path)) as made:
        assert made.duration / av.time_base == pytest.approx(float(given), abs=0.11)


@needs_shared
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_an_animation_that_holds_its_last_image(tmp_path, suffix):
    result = upscale(CASES / "hold.apng", tmp_path / f"out{suffix}")
    with av.open(str(result.path)) as made:
        assert made.duration / av.time_base == pytest.approx(3.55, abs=0.06)


@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "mp2", "ac3"])
def test_sound_that_begins_later_begins_later_in_avi(tmp_path, codec):
    clip = Clip(frames=images(30), rate=RATE, time_base=Fraction(1, 1000), audio=[codec], audio_start_seconds=0.5)
    source = clip.make(tmp_path / "in.mkv")
    result = upscale(source, tmp_path / "out.avi")
    starts = []
    for path in (source, result.path):
        with av.open(str(path)) as made:
            first = None
            for frame in made.decode(audio=0):
                level = frame.to_ndarray().astype(float)
                loud = np.nonzero(np.abs(level).max(0) > 0.02 * np.abs(level).max() + 1e-3)[0]
                if len(loud) and np.abs(level).max() > 0.05:
                    first = float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate
                    break
            starts.append(first)
    assert starts[1] == pytest.approx(starts[0], abs=0.04)


def test_a_late_first_image_in_avi(tmp_path):
    clip = Clip(frames=images(10), rate=RATE, time_base=Fraction(1, 1000), pts=[1000 + 40 * i for i in range(10)])
    result = upscale(clip.make(tmp_path / "in.mkv"), tmp_path / "out.avi")
    times = times_of(result.path)
    assert float(times[-1] - times[0]) == pytest.approx(1.36, abs=0.001)


SIDE = {
    "gopro.mp4": (".mp4", "data stream 2 (GoPro MET) cannot be copied"),
    "cc.ts": (".mkv", "closed captions"),
    "hdr10.mp4": (".mp4", "mastering display data, content light levels cannot be kept"),
    "alpha.webm": (".webm", "transparency is dropped"),
    "cover.mp4": (".mov", "cover image stream 1 (png) cannot be stored in mov"),
}


@needs_shared
@pytest.mark.parametrize("name", SIDE)
def test_what_is_lost_is_named(tmp_path, name):
    suffix, expected = SIDE[name]
    result = upscale(CASES / name, tmp_path / f"out{suffix}")
    assert sum(expected in note for note in result.notes) == 1
    with av.open(str(result.path)) as made:
        assert "alpha_mode" not in {key.lower() for key in made.streams.video[0].metadata}


@pytest.mark.parametrize("kind", ["concat", "sdp", "m3u8"])
def test_a_script_named_as_a_video_opens_no_other_file(tmp_path, kind, monkeypatch):
    other = Clip(frames=images(3)).make(tmp_path / "other.ts")
    source = tmp_path / "in.mp4"
    source.write_text(
        {
            "concat": f"ffconcat version 1.0\nfile {other.name}\n",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
            "a=rtpmap:96 H264/90000\n",
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other.name}\n#EXT-X-ENDLIST\n",
        }[kind]
    )
    with pytest.raises(InputError, match="is not a video FFmpeg can read"):
        VideoReader(source)
    # Through a pipe, in the folder of the other file, too.
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.write(writing, source.read_bytes())
    os.close(writing)
    with pytest.raises(InputError, match="standard input is not a video FFmpeg can read"):
        PipeReader(PipeInput(reading))
    os.close(reading)


@needs_shared
@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_tags_of_an_apple_device(tmp_path, suffix):
    path = upscale(CASES / "iphone.mov", tmp_path / f"out{suffix}").path
    with av.open(str(path)) as made:
        assert made.metadata["com.apple.quicktime.location.ISO6709"] == "+48.1371+011.5754+519.000/"
        assert made.metadata["com.apple.quicktime.make"] == "Apple"
        assert made.metadata["creation_time"].startswith("2024-05-06T07:08:09")


def test_a_live_recording_survives_being_killed(tmp_path):
    info = VideoReader(Clip(frames=images(1)).make(tmp_path / "in.mp4")).info
    live = replace(info, time_base=Fraction(1, 1000), frame_rate=RATE)
    still = np.zeros((96, 128, 3), np.uint8)
    encoding = Encoding(options={"tune": "zerolatency"})
    video = OutputVideo(live, 128, 96, encoding)
    writer = VideoWriter(tmp_path / "rec.mkv", video, source=None)
    for index in range(250):
        writer.write(Frame(still, index * 40, Fraction(1, 1000), 40))
    # As a killed process leaves it: without the end, under a name that is seen.
    left = (tmp_path / "rec.partial.mkv").read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(left)
    assert len(times_of(cut)) > 220
    assert writer.finish() == tmp_path / "rec.mkv"
    (tmp_path / "rec.mkv").unlink()
    (tmp_path / "rec.partial.mkv").write_bytes(left)
    with VideoWriter(tmp_path / "rec.mkv", video, source=None) as second:
        assert second.notes[0].startswith("rec.partial.mkv is left of an earlier recording")
        second.write(Frame(still, 0, Fraction(1, 1000), 40))
        second.finish()
    assert (tmp_path / "rec.partial.mkv").read_bytes() == left
    assert (tmp_path / "rec.mkv").is_file()
