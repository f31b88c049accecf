"""A server of `overnet web` in a process of its own, whose network calls are written down."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

from tests.conftest import ROOT

# Python runs it at the start of the server, and of the process that upscales.
WATCHER = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[1] if event != "socket.getaddrinfo" else arguments[:2]
        with open(os.environ["OVERNET_TEST_CALLS"], "a") as file:
            file.write(f"{event} {target}\\n")
sys.addaudithook(note)
"""


class WebServer:
    """A running server.

    Attributes:
        address: of its page.
        process: the process.
        temporary: the folder that takes the place of /tmp.
        calls: the file with its network calls.
    """

    def __init__(self, folder, *options):
        self.temporary, self.calls = folder / "tmp", folder / "calls"
        self.temporary.mkdir(exist_ok=True)
        (folder / "hook").mkdir(exist_ok=True)
        (folder / "hook/sitecustomize.py").write_text(WATCHER)
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OVERNET_TEST_CALLS": str(self.calls)}
        environment["PYTHONPATH"] = f"{folder / 'hook'}{os.pathsep}{ROOT}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "overnet", "web", "--port", "0", *options],
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.printed = ""
        for line in self.process.stderr:
            self.printed += line
            if found := re.search(r"http://\S+/", line):
                self.address = found[0]
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.printed}")

    def end(self):
        """End it as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(10)
        self.printed += self.process.stderr.read()
        self.process.stderr.close()
        return code


@contextmanager
def web_server(folder, *options):
    server = WebServer(folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()
