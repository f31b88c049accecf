import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from overnet.runtime.video import encoder as video_track
from overnet.runtime.video.formats import DEFAULT_ENCODING, find_encoder, output_format, quality_options
from overnet.runtime.video.frame import duration_seconds
from overnet.runtime.video.reader import VideoReader
from tests.support.clips import (
    NTSC,
    Clip,
    enlarged,
    first_frame,
    images,
    names,
    open_writer,
    packets_of,
    rotation,
    times_of,
    upscale,
)

IRREGULAR = [0, 1001, 1500, 4004, 9009, 9010, 12000, 20000, 20500, 30030, 30500, 45000]
SHARED = Path(__file__).parents[3].parent / "shared/clips/bbb_320x180.mp4"


def stream_of(path: Path):
    container = av.open(str(path))
    return container.streams.video[0]


@pytest.fixture
def source(tmp_path):
    return Clip().make(tmp_path / "in.mp4")


def test_constant_rate_stays_exact(tmp_path):
    source = Clip(frames=images(30), options={"bf": "2"}).make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / "out.mp4")
    assert times_of(result.path) == times_of(source) == [index / NTSC for index in range(30)]
    assert stream_of(result.path).average_rate == NTSC
    assert stream_of(result.path).time_base == Fraction(1, 30000)
    assert result.notes == []
    assert first_frame(result.path).width == 128
    assert names(tmp_path) == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_variable_rate_stays_exact(tmp_path, suffix):
    source = Clip(pts=IRREGULAR).make(tmp_path / "in.mp4")
    path = upscale(source, tmp_path / f"out{suffix}").path
    assert times_of(path) == [Fraction(pts, 30000) for pts in IRREGULAR]
    # x264 reorders by default, so this holds with B-frames.
    with av.open(str(path)) as container:
        assert any(packet.pts != packet.dts for packet in container.demux(video=0) if packet.size)


@pytest.mark.skipif(not hasattr(av.VideoFrame, "duration"), reason="older PyAV does not tell durations")
def test_the_last_frame_lasts_as_long_as_it_did(tmp_path):
    """Without reordered frames: MP4 derives the length of a track from times of decoding, which x264 chooses anew."""
    source = Clip(pts=IRREGULAR, codec="mpeg4").make(tmp_path / "in.mp4")
    durations = []
    for path in (source, upscale(source, tmp_path / "out.mp4", codec="mjpeg").path):
        stream = stream_of(path)
        durations.append(stream.duration * stream.time_base)
    assert durations == [Fraction(IRREGULAR[-1] + 1001, 30000)] * 2


@pytest.mark.skipif(not hasattr(av.VideoFrame, "duration"), reason="older PyAV does not tell durations")
def test_the_last_frame_lasts_as_long_behind_reordered_ones(tmp_path):
    """In Matroska, whose length is that of its frames, in milliseconds."""
    source = Clip(pts=IRREGULAR, codec="mpeg4").make(tmp_path / "in.mp4")
    with av.open(str(upscale(source, tmp_path / "out.mkv").path)) as container:
        assert any(packet.pts != packet.dts for packet in container.demux(video=0) if packet.size)
        assert abs(container.duration / av.time_base - (IRREGULAR[-1] + 1001) / 30000) <= 0.001


def test_times_that_matroska_stores_exactly_are_not_said_to_be_rounded(tmp_path):
    """40 ms in a clock of 1/12800 s, as FFmpeg writes 25 frames a second into MP4."""
    source = Clip(frames=images(6), rate=Fraction(25)).make(tmp_path / "in.mp4")
    with av.open(str(source)) as container:
        assert (container.streams.video[0].time_base / Fraction(1, 1000)).denominator != 1
    result = upscale(source, tmp_path / "out.mkv")
    assert times_of(result.path) == [Fraction(index, 25) for index in range(6)]
    assert result.notes == []


def test_matroska_rounds_to_milliseconds_and_says_so(tmp_path, source):
    result = upscale(source, tmp_path / "out.mkv")
    assert any("milliseconds" in note for note in result.notes)
    for given, written in zip(times_of(source), times_of(result.path), strict=True):
        assert abs(given - written) <= Fraction(1, 2000)
    again = upscale(result.path, tmp_path / "again.mp4")
    assert times_of(again.path) == times_of(result.path)
    assert not any("milliseconds" in note for note in again.notes)


def test_avi_has_a_constant_rate(tmp_path, source):
    result = upscale(source, tmp_path / "out.avi")
    assert any("constant 29.97" in note for note in result.notes)
    times = times_of(result.path)
    assert [time - times[0] for time in times] == [index / NTSC for index in range(12)]


@pytest.mark.parametrize("offset", [-3003, 15015])
def test_an_offset_of_the_video_stays(tmp_path, offset):
    clip = Clip(pts=[index * 1001 + offset for index in range(12)], audio=["aac"], options={"bf": "0"})
    source = clip.make(tmp_path / "in.mp4")
    path = upscale(source, tmp_path / "out.mp4").path
    assert times_of(path) == times_of(source)
    assert packets_of(path, "audio") == packets_of(source, "audio")


def test_the_clock_of_a_transport_stream_begins_at_zero(tmp_path):
    pts = [900000 + index * 3003 for index in range(12)]
    clip = Clip(audio=["aac"], audio_start_seconds=10, time_base=Fraction(1, 90000), pts=pts, options={"bf": "0"})
    source = clip.make(tmp_path / "in.ts")
    path = upscale(source, tmp_path / "out.mp4").path
    before, after = times_of(source), times_of(path)
    assert before[0] >= 9.9
    shift = before[0] - after[0]
    assert [a - b for a, b in zip(before, after, strict=True)] == [shift] * 12
    assert min(after[0], packets_of(path, "audio")[0][0]) == pytest.approx(0, abs=0.001)
    sound_shift = packets_of(source, "audio")[0][0] - packets_of(path, "audio")[0][0]
    assert float(shift - sound_shift) == pytest.approx(0, abs=1 / 48000)


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_stays_a_tag(tmp_path, degrees, suffix):
    source = Clip(rotation=degrees).make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / f"out{suffix}")
    frame = first_frame(result.path)
    assert frame.rotation == first_frame(source).rotation
    assert (frame.width, frame.height) == (128, 96)


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_rotation_is_applied_where_it_cannot_be_a_tag(tmp_path, monkeypatch, degrees, suffix):
    source = Clip(rotation=degrees, aspect=Fraction(4, 3)).make(tmp_path / "in.mp4")
    if suffix == ".mp4":

        class OlderStream:
            """PyAV's before it could write a display matrix."""

        monkeypatch.setattr(video_track, "VideoStream", OlderStream)
    path = upscale(source, tmp_path / f"out{suffix}", crf=1).path
    with VideoReader(source) as reader, VideoReader(path) as written:
        upright = np.rot90(enlarged(next(iter(reader)).rgb, 2), degrees // 90)
        shown = next(iter(written)).rgb
        assert shown.shape == upright.shape
        assert np.abs(shown.astype(int) - upright).mean() < 4
        assert rotation(written.info) == 0
        assert written.info.sample_aspect_ratio == (Fraction(4, 3) if degrees == 180 else Fraction(3, 4))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_pixel_aspect_stays(tmp_path, suffix):
    source = Clip(aspect=Fraction(4, 3)).make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / f"out{suffix}")
    assert stream_of(result.path).sample_aspect_ratio == Fraction(4, 3)
    assert not any("4:3" in note for note in result.notes)


def test_pixel_aspect_that_cannot_be_stored_is_told(tmp_path):
    source = Clip(aspect=Fraction(4, 3)).make(tmp_path / "in.mp4")
    assert any("4:3" in note for note in upscale(source, tmp_path / "out.webm").notes)
    assert stream_of(upscale(source, tmp_path / "o.mp4", codec="vp9").path).sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize(
    ("width", "height", "ratio"), [(128, 48, Fraction(1, 2)), (64, 96, Fraction(2)), (98, 74, None)]
)
def test_pixel_aspect_follows_an_uneven_scale(tmp_path, source, width, height, ratio):
    with open_writer(source, tmp_path / "out.mp4", width=width, height=height) as writer, VideoReader(source) as reader:
        for frame in reader:
            frame.rgb = np.zeros((height, width, 3), np.uint8)
            writer.write(frame)
        assert stream_of(writer.finish()).sample_aspect_ratio == ratio or ratio is None


def test_an_odd_size_is_kept(tmp_path):
    source = Clip(frames=images(4, 62, 46)).make(tmp_path / "in.mp4")
    with (
        VideoReader(source) as reader,
        open_writer(source, tmp_path / "out.mp4", width=93, height=69, crf=1) as writer,
    ):
        for frame in reader:
            frame.rgb = last = enlarged(images(1, 31, 23)[0], 3)
            writer.write(frame)
        path = writer.finish()
    assert any("93x69" in note and "4:4:4" in note for note in writer.notes)
    with VideoReader(path) as reader:
        assert (reader.info.width, reader.info.height) == (93, 69)
        assert np.abs(list(reader)[-1].rgb.astype(int) - last).mean() < 3


def test_vp9_stores_odd_sizes_as_420(tmp_path):
    source = Clip(frames=images(2, 62, 46)).make(tmp_path / "in.mp4")
    with VideoReader(source) as reader, open_writer(source, tmp_path / "o.webm", width=93, height=69) as writer:
        for frame in reader:
            frame.rgb = np.resize(frame.rgb, (69, 93, 3))
            writer.write(frame)
        assert first_frame(writer.finish()).format.name == "yuv420p"


@pytest.mark.parametrize(
    ("codec", "suffix", "stored"),
    [
        ("h264", ".mkv", "h264"),
        ("hevc", ".mp4", "hevc"),
        ("av1", ".mp4", "av1"),
        ("vp9", ".mp4", "vp9"),
        ("mpeg4", ".mp4", "mpeg4"),
        ("ffv1", ".mkv", "ffv1"),
        (None, ".webm", "vp9"),
    ],
)
def test_codecs(tmp_path, source, codec, suffix, stored, capfd):
    result = upscale(source, tmp_path / f"out{suffix}", codec=codec, crf=20, threads=1)
    with VideoReader(result.path) as reader, VideoReader(source) as given:
        assert reader.info.codec == stored or stored in ("av1",)
        for written, frame in zip(reader, given, strict=True):
            assert np.abs(written.rgb.astype(int) - enlarged(frame.rgb, 2)).mean() < 8
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="others cannot be given real-time scheduling")
def test_no_encoder_gets_real_time_scheduling(tmp_path, source):
    """SVT-AV1 took it for all threads of the process, and kept other processes from the processors."""

    def policies():
        return {os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}

    with VideoReader(source) as reader, open_writer(source, tmp_path / "out.mp4", codec="av1", scale=1) as writer:
        assert writer.track.stream.codec_context.name == "libsvtav1"
        assert policies() == {os.SCHED_OTHER}
        for frame in reader:
            writer.write(frame)
        assert policies() == {os.SCHED_OTHER}
        writer.finish()


def test_a_frame_of_another_size_is_a_defect(tmp_path, source):
    with (
        open_writer(source, tmp_path / "out.mp4") as writer,
        VideoReader(source) as reader,
        pytest.raises(ValueError, match="96x128"),
    ):
        writer.write(next(iter(reader)))


def test_mp4_starts_fast(tmp_path, source):
    data = upscale(source, tmp_path / "out.mp4").path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("encoder", ["h264_nvenc", "hevc_qsv", "h264_vaapi", "h264_amf", "hevc_videotoolbox", "prores"])
def test_every_family_of_encoders_takes_a_quality(encoder):
    coarse, fine = (quality_options(encoder, crf, width=64, height=48, rate=NTSC) for crf in (40, 10))
    assert coarse != fine
    assert all(isinstance(value, str) for value in coarse.values())


def test_an_encoder_without_quality_gets_a_bit_rate():
    options = quality_options("h264_v4l2m2m", 20, width=1920, height=1080, rate=Fraction(30))
    assert 4_000_000 < int(options["b"]) < 10_000_000


def test_default_encoders_exist():
    for suffix in (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"):
        assert find_encoder(DEFAULT_ENCODING, output_format(Path(f"a{suffix}"))).type == "video"


def _duration(reader):
    return duration_seconds(reader._container, reader._stream)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clip is not here")
def test_the_shared_clip(tmp_path):
    result = upscale(SHARED, tmp_path / "out.mp4", crf=30)
    assert (result.frames, result.notes) == (132, [])
    assert times_of(result.path) == times_of(SHARED)
    assert packets_of(result.path, "audio") == packets_of(SHARED, "audio")
    with VideoReader(result.path) as reader, VideoReader(SHARED) as given:
        assert reader.info.color_as_tagged == given.info.color_as_tagged
        assert reader.info.frame_rate == given.info.frame_rate
        assert _duration(reader) == _duration(given)
        assert (reader.info.width, reader.info.height) == (640, 360)
