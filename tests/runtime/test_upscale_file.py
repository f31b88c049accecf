"""One file from input to output, within one process."""

import os
import signal

import av
import pytest

from overnet import Upscaler
from overnet.runtime.plan import Job
from overnet.runtime.upscale_file import VideoOptions, upscale_video
from overnet.runtime.video.writer import VideoWriter
from tests.conftest import write_clip


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
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
    before = signal.signal(signal.SIGTERM, stop)
    try:
        job = Job(tmp_path / "clip.mp4", tmp_path / "out.mp4", "video")
        upscaler = Upscaler(2, model=small_models)
        outcome = upscale_video(job, upscaler, VideoOptions(), overwrite=False, on_frame=show)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert outcome.partial is interrupted
    with av.open(str(outcome.output)) as video:
        assert sum(1 for _ in video.decode(video=0)) == outcome.frames
