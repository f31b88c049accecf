"""What the tests of live video need of the machine: packages of the system that pip does not bring."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).parent / "rtsp_server.py"


def missing(what):
    """Skip a test, or fail it where everything has to be there."""
    if os.environ.get("OVERNET_REQUIRE_LIVE"):
        pytest.fail(f"{what} is not here, and OVERNET_REQUIRE_LIVE is set")
    pytest.skip(f"{what} is not here")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class RtspCamera:
    """A real RTSP server, in a process of its own that can be killed and started again."""

    def __init__(self, width=64, height=48):
        self.port = free_port()
        self._size = str(width), str(height)
        self.process = None

    def url(self, path="/live"):
        return f"rtsp://127.0.0.1:{self.port}{path}"

    def start(self):
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, str(SERVER), str(self.port), *self._size],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self.process.stdout.readline() != "listening\n":
            self.kill()
            missing("GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly)")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def __enter__(self):
        if not Path(SYSTEM_PYTHON).exists() or sys.platform != "linux":
            missing("the system's Python")
        self.start()
        return self

    def __exit__(self, *error):
        self.kill()


class VirtualDisplay:
    """An X server without a screen."""

    def __init__(self):
        self._process = None

    def __enter__(self):
        if shutil.which("Xvfb") is None:
            missing("Xvfb")
        read, write = os.pipe()
        # Without -noreset it begins anew whenever its last client has gone, and the next one's window may go with it.
        self._process = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-noreset"],
            pass_fds=[write],
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as answer:
            self.name = f":{answer.readline().strip()}"
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait()
