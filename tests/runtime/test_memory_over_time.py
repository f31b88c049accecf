"""Memory stays flat over long pipes and many reconnections: what grows by each would end a stream after days."""

import itertools
import subprocess
import threading

import numpy as np
import psutil
import pytest

from overnet.runtime.live.ffmpeg_source import connect_network
from overnet.runtime.live.source import LiveSource
from tests.runtime.live.test_source import no_waiting, web, write_live
from tests.support.commands import command_line, environment

__all__ = ["no_waiting", "web"]
_FRAMES, _SETTLED = 5000, 1000
_WIDTH, _HEIGHT = 48, 32
# Measured +0.2 to +3 MB over 5,000 to 20,000 frames.
_MOST_GROWTH_BYTES = 8 << 20


@pytest.mark.slow
def test_thousands_of_frames_through_a_pipe():
    arguments = ["-", "-o", "-", "--raw", f"{_WIDTH}x{_HEIGHT}", "--output-format", "raw", "--model", "realtime", "-q"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command_line(*arguments), stdin=pipe, stdout=pipe, env=environment()) as process:
        assert process.stdin is not None and process.stdout is not None
        source = process.stdin

        def feed():
            frames = np.random.default_rng(0).integers(0, 256, (16, _HEIGHT, _WIDTH, 3), dtype=np.uint8)
            for frame in itertools.islice(itertools.cycle(frames), _FRAMES):
                source.write(frame.tobytes())
            source.close()

        thread = threading.Thread(target=feed)
        thread.start()
        result_bytes, resident = 4 * _WIDTH * _HEIGHT * 3, {}
        for number in range(1, _FRAMES + 1):
            assert len(process.stdout.read(result_bytes)) == result_bytes
            if number in (_SETTLED, _FRAMES - 100):
                resident[number] = psutil.Process(process.pid).memory_info().rss
        assert process.stdout.read() == b""
        thread.join()
    assert process.returncode == 0
    assert resident[_FRAMES - 100] - resident[_SETTLED] < _MOST_GROWTH_BYTES


@pytest.mark.slow
def test_a_hundred_and_forty_reconnections(web, no_waiting):
    url, folder = web
    write_live(folder, frames=2)
    source = LiveSource("web", lambda: connect_network(f"{url}/live.mkv"))
    resident = {}
    for _ in source.frames():
        if source.reconnections in (20, 140):
            resident[source.reconnections] = psutil.Process().memory_info().rss
        if source.reconnections == 140:
            break
    assert resident[140] - resident[20] < _MOST_GROWTH_BYTES
