"""Sound that a container cannot hold as it is, encoded again: nothing is lost, and it is heard when it was."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import SHARED, needs_shared
from tests.support.clips import images, upscale

RATE = 8000
BEEP_SECONDS = 1.0
CODECS = {".mkv": "flac", ".mp4": "aac", ".mov": "aac", ".webm": "libopus", ".avi": "pcm_s16le"}


def with_beep(path: Path, codec: str, *, gap_seconds: int = 0, rate: int = RATE) -> Path:
    """Two seconds of video, with sound that is silent for one second and then beeps."""
    samples = np.zeros((1, 2 * rate), np.float32)
    samples[:, rate:] = 0.6 * np.sin(np.arange(rate) * 0.5)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = output.add_stream(codec, rate=rate, layout="mono")
        packets = [packet for image in images(50) for packet in video.encode(av.VideoFrame.from_ndarray(image))]
        packets += video.encode(None)
        size = sound.codec_context.frame_size or 400
        is_float = sound.codec_context.format.name.startswith("flt")
        for start in range(0, 2 * rate - size + 1, size):
            if 0 < start < gap_seconds * rate:
                continue
            part = samples[:, start : start + size]
            data = part if is_float else (part * 30000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(data), format="fltp" if is_float else "s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        output.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def beep_of(path: Path) -> tuple[str, float]:
    """The codec of the sound, and when it becomes loud, in seconds."""
    with av.open(str(path)) as made:
        stream = made.streams.audio[0]
        frames = [
            (
                float(frame.pts * frame.time_base),
                np.abs(frame.to_ndarray().astype(float)).reshape(-1),
                frame.sample_rate,
            )
            for frame in made.decode(audio=0)
        ]
        loudest = max(levels.max() for _, levels, _ in frames)
        for at, levels, rate in frames:
            loud = np.nonzero(levels > 0.3 * loudest)[0]
            if len(loud):
                return stream.codec_context.name, at + loud[0] / rate
    raise AssertionError("it is silent")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
@pytest.mark.parametrize("codec", ["pcm_alaw", "pcm_mulaw", "adpcm_ima_wav", "adpcm_ms"])
def test_sound_that_cannot_be_copied_is_encoded(tmp_path, codec, suffix):
    source = with_beep(tmp_path / "in.avi", codec)
    expected = beep_of(source)[1]
    result = upscale(source, tmp_path / f"out{suffix}")
    name, at = beep_of(result.path)
    assert CODECS[suffix].removeprefix("lib") in name
    assert at == pytest.approx(expected, abs=0.03)
    container = {".mkv": "matroska", ".mp4": "mp4", ".webm": "webm"}[suffix]
    assert f"audio stream 1 ({codec}) cannot be copied into {container}: encoded as {CODECS[suffix]}" in result.notes


@pytest.mark.parametrize("codec", ["pcm_alaw", "adpcm_ms"])
def test_a_part_of_it(tmp_path, codec):
    source = with_beep(tmp_path / "in.avi", codec)
    expected = beep_of(source)[1]
    result = upscale(source, tmp_path / "out.mkv", start_seconds=0.6, max_frames=20)
    assert beep_of(result.path)[1] == pytest.approx(expected - 0.6, abs=0.03)
    with av.open(str(result.path)) as made:
        assert made.duration / av.time_base < 1.2


def test_a_gap_stays_a_gap(tmp_path):
    source = with_beep(tmp_path / "in.mkv", "aac", gap_seconds=1, rate=48000)
    expected = beep_of(source)[1]
    assert beep_of(upscale(source, tmp_path / "out.webm").path)[1] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("codec", ["flac", "alac"])
def test_deep_sound_stays_exact_where_it_can(tmp_path, codec):
    """Lossless sound of 24 bits for AVI, which holds neither codec: as plain samples."""
    source = tmp_path / "in.mkv"
    levels = np.random.default_rng(0).integers(-(1 << 23), 1 << 23, (1, 48000), dtype=np.int32) << 8
    with av.open(str(source), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = output.add_stream(codec, rate=48000, layout="mono")
        sound.codec_context.format = "s32p" if codec == "alac" else "s32"
        for image in images(25):
            output.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        frame = av.AudioFrame.from_ndarray(levels, format=sound.codec_context.format.name, layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        output.mux(video.encode(None) + sound.encode(frame) + sound.encode(None))
    path = upscale(source, tmp_path / ("out.avi" if codec == "alac" else "out.mkv")).path
    with av.open(str(path)) as made:
        back = np.concatenate([frame.to_ndarray().reshape(-1) for frame in made.decode(audio=0)])
    np.testing.assert_array_equal(back, levels[0])


@needs_shared
@pytest.mark.parametrize("suffix", CODECS)
def test_windows_media(tmp_path, suffix):
    source = SHARED / "cases/files/sound.wmv"
    result = upscale(source, tmp_path / f"out{suffix}")
    with av.open(str(source)) as given, av.open(str(result.path)) as made:
        lengths = [sum(frame.samples / frame.sample_rate for frame in one.decode(audio=0)) for one in (given, made)]
    assert lengths[1] == pytest.approx(lengths[0], abs=0.03)
    assert sum("encoded as" in note for note in result.notes) == (suffix != ".avi")
