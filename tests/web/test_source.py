"""What the page reads of a dropped file."""

import av
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.web.source import read_source


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
    assert read_source(recording, tmp_path, most_seconds=5).seconds == pytest.approx(4, abs=0.05)
    with pytest.raises(InputError, match=r"recording\.webm is 0\.1 minutes long, and the limit here is 0\.05 "):
        read_source(recording, tmp_path, most_seconds=3)
