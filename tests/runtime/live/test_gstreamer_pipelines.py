"""The pipelines as text, compared with those of NVIDIA's and others' documentation."""

from fractions import Fraction
from pathlib import Path

import pytest

from overnet.errors import InputError, MissingDependency
from overnet.runtime.live import gstreamer_pipelines as gstreamer
from overnet.runtime.live.addresses import parse_address
from overnet.runtime.live.open import LiveSink, SourceOptions, open_live_source

_END = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1"


def test_the_csi_camera():
    assert gstreamer.csi_pipeline(0, size=(1920, 1080), rate=Fraction(30)) == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 ! " + _END
    )


@pytest.mark.parametrize(("codec", "number"), [("h264", "264"), ("hevc", "265")])
def test_rtsp(codec, number):
    pipeline = gstreamer.rtsp_pipeline("rtsp://h/x?a=b&c", codec=codec, transport="tcp", timeout_seconds=5)
    assert pipeline.startswith("rtspsrc location=rtsp://h/x\\?a=b\\&c latency=200 protocols=tcp ")
    assert pipeline.endswith(f" ! rtph{number}depay ! h{number}parse ! nvv4l2decoder ! {_END}")
    with pytest.raises(InputError, match="vp9"):
        gstreamer.rtsp_pipeline("rtsp://h/x", codec="vp9", transport="tcp", timeout_seconds=5)


def test_files():
    options = {"size": (1920, 1080), "rate": Fraction(30)}
    assert gstreamer.file_sink_pipeline(Path("/o/a.mp4"), **options) == (
        "appsrc ! videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
        "nvv4l2h264enc insert-sps-pps=true bitrate=7464960 ! h264parse ! qtmux ! filesink location=/o/a.mp4"
    )
    assert gstreamer.file_sink_pipeline(Path("/o/a b.mkv"), **options, hardware=False) == (
        "appsrc ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast "
        "bitrate=7464 ! h264parse ! matroskamux ! filesink location=/o/a\\ b.mkv"
    )
    assert gstreamer.file_sink_pipeline(Path("/o/a.webm"), **options) is None


def test_a_users_pipelines():
    assert gstreamer.source_pipeline("videotestsrc") == (
        "videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1"
    )
    own = "videotestsrc ! video/x-raw,format=BGR ! appsink sync=false"
    assert gstreamer.source_pipeline(own) == own
    options = {"hardware": False, "size": (64, 48), "rate": Fraction(25)}
    assert gstreamer.sink_pipeline("fakesink", **options).startswith("appsrc ! videoconvert ! ")
    assert gstreamer.sink_pipeline("appsrc ! fakesink", **options) == "appsrc ! fakesink"


def test_values_that_would_be_more_than_a_value():
    assert gstreamer.quoted("/a/b-c_d.mp4") == "/a/b-c_d.mp4"
    assert gstreamer.quoted("a ! b") == "a\\ \\!\\ b"
    assert gstreamer.quoted('x\\" y') == '\\x\\\\\\"\\ y'.replace("\\x", "x", 1)
    with pytest.raises(InputError, match="control characters"):
        gstreamer.quoted("a\nb")


@pytest.fixture
def without_gstreamer(monkeypatch):
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", lambda: False)


@pytest.mark.parametrize("text", ["gst:videotestsrc", "csi:0"])
def test_an_opencv_without_gstreamer(without_gstreamer, text):
    with pytest.raises(MissingDependency, match="needs GStreamer, which this OpenCV"):
        open_live_source(parse_address(text), SourceOptions(), print)
    with pytest.raises(InputError, match="no decoder here"):
        open_live_source(parse_address("rtsp://h/x"), SourceOptions(hardware="on"), print)


def test_a_sink_without_gstreamer(without_gstreamer):
    with pytest.raises(MissingDependency, match="as an output needs GStreamer"):
        LiveSink(parse_address("gst:fakesink")).check()
