"""What the page reads of a dropped file."""

import json
import struct

import av
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.runtime.video.reader import VideoReader
from overnet.web.source import Source, read_source
from tests.support.clips import Clip, images


@pytest.fixture
def recording(tmp_path):
    """Four seconds in a file that states no duration, as browsers record them."""
    path = tmp_path / "recording.webm"
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(101):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.duration is None
    return path


def test_the_limit_holds_for_recordings_that_state_no_duration(recording, tmp_path):
    assert read_source(recording, tmp_path / "shown.png", most_seconds=5).seconds == pytest.approx(4, abs=0.05)
    with pytest.raises(InputError, match=r"recording\.webm is 0\.1 minutes long, and the limit here is 0\.05 "):
        read_source(recording, tmp_path / "shown.png", most_seconds=3)


@pytest.fixture
def lying(tmp_path):
    """A clip of 70 seconds, whose header states one."""
    path = Clip(frames=images(70, 32, 24), rate=1, pts=[n * 30_000 for n in range(70)]).make(tmp_path / "lying.mkv")
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in milliseconds
    assert struct.unpack(">d", content[at : at + 8]) == (70_000,)
    path.write_bytes(content[:at] + struct.pack(">d", 1000) + content[at + 8 :])
    with VideoReader(path) as reader:
        assert reader.info.frame_count == 1
    return path


def test_the_limit_holds_for_the_frames_of_a_file_whose_header_states_a_shorter_duration(lying, tmp_path):
    source = read_source(lying, tmp_path / "shown.png", most_seconds=70)
    assert source.seconds == 70
    assert Source.from_json(json.loads(json.dumps(source.to_json()))) == source
    with pytest.raises(
        InputError, match=r"lying\.mkv is 1\.2 minutes long, and the limit here is 1 \(overnet web --max-"
    ):
        read_source(lying, tmp_path / "shown.png", most_seconds=60)


def test_the_number_of_frames_has_a_limit_too(tmp_path):
    """Their times may hardly differ."""
    path = Clip(frames=images(30, 32, 24), pts=[number * 30 for number in range(30)]).make(tmp_path / "fast.mkv")
    read_source(path, tmp_path / "shown.png", most_seconds=0.2)
    with pytest.raises(
        InputError, match=r"has 30 frames, as many as 0\.0 minutes at 240 frames/s, and the limit here is"
    ):
        read_source(path, tmp_path / "shown.png", most_seconds=0.1)
