"""What is no file on the command line, and that its passwords are never shown."""

import pytest

from overnet.errors import InputError
from overnet.runtime.live.addresses import parse_address, without_secrets


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("-", "pipe", "-"),
        ("camera:0", "camera", "/dev/video0"),
        ("camera:/dev/v4l/by-id/usb-cam", "camera", "/dev/v4l/by-id/usb-cam"),
        ("csi:1", "csi", "1"),
        ("rtsp://h/x", "network", "rtsp://h/x"),
        ("RTSPS://h:1/x?y=z", "network", "RTSPS://h:1/x?y=z"),
        ("udp://239.0.0.1:1234", "network", "udp://239.0.0.1:1234"),
        ("gst: videotestsrc ! videoconvert ", "gst", "videotestsrc ! videoconvert"),
    ],
)
def test_addresses(text, kind, target):
    address = parse_address(text)
    assert (address.kind, address.target) == (kind, target)
    assert address.is_live == (kind != "pipe")


@pytest.mark.parametrize("text", ["clip.mp4", "./camera:0", "12:30.mp4", "a//b", "camera.mp4", "--", "dir/", "file:x"])
def test_files(text):
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["camera:", "camera:front", "camera:-1", "csi:x", "csi:/dev/video0", "gst:", "gst:  "])
def test_mistakes(text):
    with pytest.raises(InputError, match=text.split(":")[0]):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://joe:hush@10.0.0.2:554/live",
        "rtsp://joe:p@hush/w@10.0.0.2/live",
        "rtsp://joe:hush#?x@10.0.0.2/live",
        "http://10.0.0.2/video.mjpg?user=joe&pwd=hush&channel=1",
        "https://h/live.m3u8?token=hush",
        "rtsp://10.0.0.2:554/user=joe_password=hush_channel=1_stream=0.sdp",
        "gst:rtspsrc location=rtsp://joe:hush@h/x ! decodebin",
        'gst:rtspsrc location=rtsp://h/x user-id=joe user-pw="hu sh" ! decodebin',
        "gst:rtspsrc location=rtsp://h/x user-id=joe user-pw=hush ! decodebin",
    ],
)
def test_passwords_are_not_shown(text):
    shown = without_secrets(text)
    assert "hush" not in shown and "hu sh" not in shown and "joe" not in shown
    assert shown.startswith(text[:4])


def test_what_stays_readable():
    assert without_secrets("rtsp://h:554/Streaming/Channels/101?channel=2") == (
        "rtsp://h:554/Streaming/Channels/101?channel=2"
    )
    assert without_secrets("rtsp://h/a\nb") == "rtsp://h/a?b"
