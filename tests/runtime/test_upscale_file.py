"""One file from input to output, within one process."""

import os
import signal
import tracemalloc

import av
import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet.errors import InputError
from overnet.runtime import upscale_file
from overnet.runtime.plan import Job
from overnet.runtime.upscale_file import VideoOptions, _make_grey, upscale_image, upscale_video
from overnet.runtime.video.writer import VideoWriter
from tests.conftest import write_clip


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_takes_no_memory_of_the_size_of_the_result(dtype):
    """16 bytes a pixel were taken, 17 GB for an 8 kB file of 8192x8192 at x4."""
    rgb = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (1000, 900, 3), dtype, endpoint=True)
    expected = np.rint(rgb.mean(axis=2)).astype(dtype)
    tracemalloc.start()
    _make_grey(rgb)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(np.array_equal(rgb[..., channel], expected) for channel in range(3))
    assert peak_bytes < 2 << 20


def test_a_result_that_cannot_be_held_is_refused_before_the_work(tmp_path, small_models, monkeypatch):
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4096, 4096), np.uint8))
    assert (tmp_path / "large.png").stat().st_size < 40_000
    monkeypatch.setattr(upscale_file, "available_memory_bytes", lambda: 500_000_000)
    job = Job(tmp_path / "large.png", tmp_path / "larger.png", "image")
    with pytest.raises(InputError, match=r"8192x8192 pixels takes 0\.8 GB of memory, and 0\.5 GB are free"):
        upscale_image(job, Upscaler(2, model=small_models), overwrite=False)
    assert not job.target.exists()
