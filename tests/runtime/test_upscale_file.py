"""One file from input to output, within one process."""

import os
import signal
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet.errors import InputError
from overnet.runtime import still_image
from overnet.runtime.plan import Job
from overnet.runtime.segments.writer import Cutting, SegmentedWriter
from overnet.runtime.still_image import make_grey
from overnet.runtime.upscale_file import VideoOptions, read_frame, upscale_image, upscale_video
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter
from tests.conftest import write_clip
from tests.support.clips import Clip


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_video_that_is_being_completed_is_not_lost(tmp_path, small_models, monkeypatch, sent, interrupted):
    """Ctrl-C, or a second one, while the last bytes are written: the file is completed all the same."""
    write_clip(tmp_path / "clip.mp4", frames=6)
    name = "finish_partial" if interrupted else "finish"
    complete = getattr(VideoWriter, name)

    def disturbed(writer):
        os.kill(os.getpid(), sent)
        return complete(writer)

    def stop(*_):
        raise KeyboardInterrupt

    shown = []

    def show(report, expected):
        shown.append(report)
        if interrupted and len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, name, disturbed)
    before = signal.signal(sent, stop)
    try:
        job = Job(tmp_path / "clip.mp4", tmp_path / "out.mp4", "video")
        upscaler = Upscaler(2, model=small_models)
        outcome = upscale_video(job, upscaler, VideoOptions(), overwrite=False, on_frame=show)
    finally:
        signal.signal(sent, before)
    assert outcome.partial is interrupted
    with av.open(str(outcome.output)) as video:
        assert sum(1 for _ in video.decode(video=0)) == outcome.frames


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 96])
def test_ctrl_c_and_then_the_same_again(tmp_path, small_models, tile):
    """A playable part, and with the next run the result of one that was not interrupted, also in tiles.

    Their channel means are carried over from frame to frame, but not into another segment.
    """
    write_clip(tmp_path / "clip.mp4", frames=24, size=(160, 112))
    options = VideoOptions(codec="ffv1", cutting=Cutting(frames=6))
    upscaler = Upscaler(2, model=small_models, tile=tile)
    whole = upscale_video(
        Job(tmp_path / "clip.mp4", tmp_path / "whole.mkv", "video"), upscaler, options, overwrite=False
    )
    assert (whole.frames, whole.earlier_frames) == (24, 0)
    job = Job(tmp_path / "clip.mp4", tmp_path / "out.mkv", "video")
    shown = []

    def show(report, expected):
        shown.append(expected)
        if len(shown) == 16:
            raise KeyboardInterrupt

    part = upscale_video(job, upscaler, options, overwrite=False, on_frame=show)
    assert part.partial and part.output == tmp_path / "out.partial.mkv" and part.frames == 16
    assert "the same command goes on after 12 frames" in part.notes
    with av.open(str(part.output)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
    shown.clear()
    rest = upscale_video(
        job, upscaler, options, overwrite=False, on_frame=lambda report, expected: shown.append(expected)
    )
    assert (rest.frames, rest.earlier_frames, rest.partial) == (24, 12, False)
    assert shown == [12] * 12
    decoded = []
    for name in ("whole.mkv", "out.mkv"):
        with av.open(str(tmp_path / name)) as video:
            decoded.append([(frame.pts, frame.to_ndarray().tobytes()) for frame in video.decode(video=0)])
    assert decoded[0] == decoded[1] and len(decoded[0]) == 24
    assert not (tmp_path / "out.mkv.overnet").exists()


@pytest.mark.timeout(30)
def test_ctrl_c_while_finished_segments_are_decoded(tmp_path, small_models, monkeypatch):
    """Where the file allows no seek, what is done is decoded once more, which Ctrl-C ends at once."""
    write_clip(tmp_path / "clip.mp4", frames=3000, size=(32, 32))
    job = Job(tmp_path / "clip.mp4", tmp_path / "out.mp4", "video")
    options = VideoOptions(cutting=Cutting(frames=6))
    upscaler = Upscaler(2, model=small_models)
    monkeypatch.setattr(VideoReader, "_seek_behind", lambda *_: False)
    asked = []

    def has(writer, index):
        asked.append(index)
        if index == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return index < 2999

    monkeypatch.setattr(SegmentedWriter, "has", has)
    outcome = upscale_video(job, upscaler, options, overwrite=False)
    assert outcome.partial and outcome.output is None
    assert asked[-1] < 2999
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_takes_no_memory_of_the_size_of_the_result(dtype):
    """16 bytes a pixel were taken, 17 GB for an 8 kB file of 8192x8192 at x4."""
    rgb = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (1000, 900, 3), dtype, endpoint=True)
    expected = np.rint(rgb.mean(axis=2)).astype(dtype)
    tracemalloc.start()
    make_grey(rgb)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(np.array_equal(rgb[..., channel], expected) for channel in range(3))
    assert peak_bytes < 2 << 20


@pytest.mark.parametrize(
    ("aspect", "rotation", "expected"),
    [
        (Fraction(4, 3), 0, ["the video's pixels are 4:3, not square"]),
        (Fraction(4, 3), 90, ["the video's pixels are 3:4, not square"]),
        (None, 0, []),
        (Fraction(1), 0, []),
    ],
)
def test_a_frame_with_pixels_that_are_not_square_is_noted(tmp_path, aspect, rotation, expected):
    Clip(aspect=aspect, rotation=rotation).make(tmp_path / "clip.mp4")
    notes = read_frame(tmp_path / "clip.mp4", 0).notes
    assert [note.partition(": the image")[0] for note in notes] == expected


def test_a_result_that_cannot_be_held_is_refused_before_the_work(tmp_path, small_models, monkeypatch):
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4096, 4096), np.uint8))
    assert (tmp_path / "large.png").stat().st_size < 40_000
    monkeypatch.setattr(still_image, "available_memory_bytes", lambda: 500_000_000)
    job = Job(tmp_path / "large.png", tmp_path / "larger.png", "image")
    with pytest.raises(InputError, match=r"8192x8192 pixels takes 0\.8 GB of memory, and 0\.5 GB are free"):
        upscale_image(job, Upscaler(2, model=small_models), overwrite=False)
    assert not job.target.exists()
