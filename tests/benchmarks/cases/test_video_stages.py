import tempfile
import time

import av
import pytest

from overnet.benchmarks.cases.video_stages import make_clip, measure_video
from overnet.runtime.upscaler import Upscaler
from tests.support.direct_stream import DirectStream

FRAME_SECONDS = 0.04


class Sleeping(Upscaler):
    """Takes a known time for each frame of a video."""

    def stream(self, height, width, *, even_width=False, rate=None):
        def upscale(frame):
            time.sleep(FRAME_SECONDS)
            return frame.repeat(2, axis=0).repeat(2, axis=1)

        return DirectStream(upscale)


def test_a_clip_is_a_video_that_moves(tmp_path):
    path = tmp_path / "clip.mp4"
    make_clip(path, width=66, height=50, frames=7)
    with av.open(str(path)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert len(frames) == 7
    assert frames[0].shape == (50, 66, 3)
    # The same content, 3 pixels further on with each frame.
    moved = abs(frames[1][1:, 3:].astype(int) - frames[0][:-1, :-3]).mean()
    assert moved < abs(frames[1].astype(int) - frames[0]).mean() / 2


@pytest.mark.timing
def test_the_stages_agree_with_what_is_known(small_models):
    with Sleeping(2, model=small_models, backend="openvino") as upscaler:
        stages = measure_video(upscaler, 2, width=64, height=48, frames=15)
    assert stages.upscale_fps == pytest.approx(1 / FRAME_SECONDS, rel=0.05)
    assert stages.slowest_stage == "upscale"
    assert stages.decode_fps > stages.upscale_fps < stages.encode_fps
    # From beginning to end there is opening and closing of files besides.
    assert 0.5 / FRAME_SECONDS < stages.total_fps < 1.05 / FRAME_SECONDS
    assert (stages.frames, stages.width, stages.height, stages.scale) == (15, 64, 48, 2)
    assert (stages.method, stages.precision) == ("openvino", "fp32")
    assert stages.codec


def test_a_video_goes_through_a_backend(small_models, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Upscaler(2, model=small_models, backend="openvino") as upscaler:
        stages = measure_video(upscaler, 2, width=80, height=60, frames=5)
    assert (stages.frames, stages.width, stages.height) == (5, 80, 60)
    assert stages.codec == "h264"
    assert min(stages.decode_fps, stages.upscale_fps, stages.encode_fps, stages.total_fps) > 0
    assert stages.total_fps <= 1.05 * stages.upscale_fps
    assert not any(tmp_path.iterdir())


def test_ctrl_c_is_passed_on(small_models):
    class Interrupted(Sleeping):
        def stream(self, height, width, *, even_width=False, rate=None):
            def upscale(frame):
                raise KeyboardInterrupt

            return DirectStream(upscale)

    with Interrupted(2, model=small_models, backend="openvino") as upscaler, pytest.raises(KeyboardInterrupt):
        measure_video(upscaler, 2, width=64, height=48, frames=4)
