"""``overnet-run --fps``: the best bundled model that holds a rate, for files, pipes and live sources."""

import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.conftest import write_clip
from tests.overnet.cli.test_run import assert_refused
from tests.support.commands import run_command, run_process
from tests.support.needs_live import RtspCamera

CHOICE = r"model (best|fast|realtime): [\d.]+ frames/s here at 64x48 x2(, best holds [\d.]+)?(, fast holds [\d.]+)?\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_file(tmp_path):
    write_clip(tmp_path / "clip.mp4")
    result = run_command("clip.mp4", "-o", "out.mp4", "--fps", "1/10", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.match(CHOICE, result.stderr) and result.stderr.startswith("model best: ")
    assert json.loads(result.stdout)["frames"] == 12


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_files_are_measured_once_for_each_size(tmp_path):
    for name, size in (("a.mp4", (64, 48)), ("b.mp4", (64, 48)), ("c.mp4", (48, 32))):
        write_clip(tmp_path / name, size=size)
    result = run_command("a.mp4", "b.mp4", "c.mp4", "-o", "large", "--fps", 0.1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(re.findall("frames/s here at 64x48 x2", result.stderr)) == 1
    assert len(re.findall("frames/s here at 48x32 x2", result.stderr)) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pipe(tmp_path):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    arguments = ["-", "-o", "out.mkv", "--raw", "64x48", "--fps", "1000"]
    result = run_process(*arguments, cwd=tmp_path, input=frames.tobytes(), text=False)
    assert result.returncode == 0, result.stderr
    assert re.search("model (fast|realtime)", str(result.stderr)), "the fastest where none is fast enough"
    with av.open(str(tmp_path / "out.mkv")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(300)
def test_a_camera_without_a_model_sets_the_rate_and_no_frame_is_dropped(tmp_path):
    with RtspCamera() as camera:
        result = run_command(camera.url(), "-o", "out.mkv", "--duration", 2, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.match(CHOICE, result.stderr)
    report = json.loads(result.stdout)
    assert 1.8 < report["seconds"] < 4, "the measurement is no part of the run"
    assert report["captured"] > 30
    if report["captured"] < 0.9 * 2 * 25:
        pytest.skip("this machine is too busy for the camera itself")
    assert report["dropped"] < 0.1 * report["captured"]
    assert any("before the model was ready" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["clip.mp4", "-o", "out.mp4", "--fps", "25", "--model", "fast"], "--fps chooses among the bundled models", 2),
        (["clip.mp4", "-o", "out.mp4", "--fps", "soon"], "--fps is 'soon'; it must be a number of frames", 1),
        (["clip.mp4", "-o", "out.mp4", "--fps", "0"], "--fps is '0'", 1),
        (["in.png", "-o", "out.png", "--fps", "25"], "--fps is for videos, and in.png is an image", 2),
    ],
    ids=["with a model", "no number", "zero", "an image"],
)
def test_refused(tmp_path, arguments, expected, code):
    write_clip(tmp_path / "clip.mp4", frames=2)
    cv2.imwrite(str(Path(tmp_path, "in.png")), np.zeros((48, 64, 3), np.uint8))
    assert_refused(run_command(*arguments, cwd=tmp_path), tmp_path, expected, code=code)
