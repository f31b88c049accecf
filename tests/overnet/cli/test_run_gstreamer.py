"""GStreamer for real: an OpenCV of the system that has it, in an environment made as docs/jetson.md says."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from fractions import Fraction

import av
import pytest

from tests.conftest import ROOT
from tests.support.needs_live import SYSTEM_PYTHON, RtspCamera, missing
from tests.support.workers import once_for_all_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_IMAGES = "video/x-raw,width=64,height=48,framerate=25/1"
_RED = f"gst:videotestsrc num-buffers=50 is-live=true pattern=red ! {_IMAGES}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The folder of the programs of an environment with the system's OpenCV, and this project."""
    probe = "import cv2; assert 'GStreamer:                   YES' in cv2.getBuildInformation()"
    if subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode:
        missing("the system's OpenCV with GStreamer (python3-opencv)")
    with once_for_all_workers(tmp_path_factory, "system") as (folder, is_first):
        if is_first:
            install(folder)
    return folder / "venv/bin"


def install(folder):
    copy = folder / "project"
    # A copy, because pip builds in the folder that it is given.
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("build", ".git", "*.egg-info", "tests", "__pycache__"))
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/pip"), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-compile", str(copy), "numpy<2"], check=True, capture_output=True)
    # On a Jetson, which is aarch64, it is not asked for.
    subprocess.run([*pip, "uninstall", "-y", "opencv-python"], check=True, capture_output=True)


@pytest.fixture
def run(environment, tmp_path, small_models):
    def start(*arguments):
        return subprocess.run(
            [str(environment / "overnet-run"), *arguments, "--model", str(small_models), "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return start


def decoded(path):
    with av.open(str(path)) as video:
        return list(video.decode(video=0))


def before_the_model(report):
    """Return the number of frames that came while the model was loaded: no part of the run, and a note counts them."""
    return next((int(note.split()[0]) for note in report["notes"] if "before the model was ready" in note), 0)


@pytest.mark.timing
def test_a_pipeline_in_and_a_file_out(run, tmp_path):
    result = run(_RED, "-o", "out.mkv")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    before = before_the_model(report)
    # The source keeps its rate, so that a busy machine drops frames.
    assert report["captured"] + before == 50 and report["frames"] + report["dropped"] == report["captured"]
    frames = decoded(tmp_path / "out.mkv")
    assert len(frames) == report["frames"] and 1.7 < frames[-1].time < 2.3
    rgb = frames[len(frames) // 2].to_ndarray(format="rgb24")
    assert rgb.shape == (96, 128, 3)
    # Red, as far as random weights leave it, and not blue: OpenCV has them the other way round.
    assert abs(rgb.reshape(-1, 3).mean(axis=0) - (255, 0, 0)).max() < 30
    assert result.stderr.count("\n") == 1 + bool(before), result.stderr


@pytest.mark.timing
def test_a_pipeline_out(run, tmp_path):
    result = run(_RED, "-o", f"gst:matroskamux ! filesink location={tmp_path}/out.mkv")
    assert result.returncode == 0, result.stderr
    frames = decoded(tmp_path / "out.mkv")
    report = json.loads(result.stdout)
    assert report["frames"] == 50 - report["dropped"] - before_the_model(report)
    # Where frames are dropped, the ones before them are repeated: GStreamer's pipelines take a steady rate.
    assert 25 < len(frames) <= 55 and 1.7 < frames[-1].time < 2.3
    assert abs(frames[len(frames) // 2].to_ndarray(format="rgb24").reshape(-1, 3).mean(axis=0) - (255, 0, 0)).max() < 30


def test_rtsp_through_a_pipeline(run, tmp_path):
    with RtspCamera() as camera:
        source = f"gst:rtspsrc location={camera.url()} latency=100 ! rtph264depay ! h264parse ! openh264dec"
        result = run(source, "-o", "out.mkv", "--frames", "20")
    assert result.returncode == 0, result.stderr
    assert len(decoded(tmp_path / "out.mkv")) == 20


def test_a_source_is_opened_once(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as camera:
        opened = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    opened.append(camera.accept()[0])
                    with contextlib.suppress(OSError):
                        opened[-1].sendall(bytes(64 * 48 * 3) * 200)

        threading.Thread(target=serve, daemon=True).start()
        images = "rawvideoparse format=bgr width=64 height=48 framerate=25/1"
        source = f"gst:tcpclientsrc host=127.0.0.1 port={camera.getsockname()[1]} ! {images}"
        result = run(source, "-o", "out.mkv", "--frames", "20")
        camera.shutdown(socket.SHUT_RDWR)
    assert result.returncode == 0, result.stderr
    # Stopping a first try while it connects may make GStreamer's RTSP source abort the process.
    assert len(opened) == 1
    opened[0].close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gst:videotestsrc ! nosuchelement", "-o", "out.mkv"], 'no element "nosuchelement"'),
        (["gst:videotestsrc !!", "-o", "out.mkv"], "syntax error"),
        (["gst:filesrc location=/none ! decodebin", "-o", "out.mkv"], "cannot be started"),
        (["gst:rtspsrc location=rtsp://joe:hush@127.0.0.1:9/x ! nosuch", "-o", "out.mkv"], 'no element "nosuch"'),
        ([_RED, "-o", "gst:nosuchmux ! filesink location=out.mkv"], 'no element "nosuchmux"'),
        ([_RED, "-o", "gst:matroskamux ! filesink location=/none/out.mkv"], "cannot be started"),
        (["csi:0", "-o", "out.mkv"], 'no element "nvarguscamerasrc"'),
        (["rtsp://h/x", "-o", "out.mkv", "--hardware", "on"], "no decoder here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_pipelines(run, tmp_path, arguments, expected):
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1 and expected in result.stderr
    assert "hush" not in result.stderr
    assert list(tmp_path.iterdir()) == []


_WRITE = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from overnet.runtime.live.gstreamer_io import open_file_in_hardware
from overnet.runtime.video.frame import Frame
path = Path(sys.argv[1])
options = dict(width=64, height=48, rate=Fraction(25), overwrite=False)
assert open_file_in_hardware(path, **options) is None  # the encoder of a Jetson is not here
with open_file_in_hardware(path, **options, hardware=False) as writer:
    for index in range(10):
        writer.write(Frame(np.full((48, 64, 3), index * 20, np.uint8), index, Fraction(1, 25), 1))
    assert writer.finish() == path
"""


@pytest.mark.parametrize("name", ["a b.mp4", "a ! fakesink.mkv", 'it\'s "q".mov', "back\\.mp4", "ünï=$x`;&#(1),.mkv"])
def test_files_by_the_pipeline_of_a_jetson(environment, tmp_path, name):
    """With x264 in the place of its encoder; and that encoder missing is found out. Whatever the name is."""
    command = [str(environment / "python"), "-c", _WRITE, str(tmp_path / name)]
    quiet = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT"}  # as the commands have it
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=quiet)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert [file.name for file in tmp_path.iterdir()] == [name]
    frames = decoded(tmp_path / name)
    assert len(frames) == 10
    assert frames[-1].time == pytest.approx(float(Fraction(9, 25)), abs=0.001)
