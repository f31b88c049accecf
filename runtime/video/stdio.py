"""Standard input and output as ends of a pipe: reads that can be stopped, and writes that nobody has to wait for."""

from __future__ import annotations

import os
import select
import sys
import threading

from overnet.errors import InputError, OutputError

# How often a wait looks whether it is to end.
_LOOK_SECONDS = 0.1
_READ_BYTES = 1 << 20
# A pipe that is ready takes this much at once (POSIX's PIPE_BUF), so that such a write never waits.
_CHUNK_BYTES = getattr(select, "PIPE_BUF", 512)
_KEPT_HEAD_BYTES = 512
# How long a reader that takes nothing is waited for once the run is to end.
_GRACE_SECONDS = 2.0
# `select` works on pipes everywhere but there.
_CAN_SELECT = sys.platform != "win32"


class PipeInput:
    """A file that FFmpeg reads from: the reading end of a pipe.

    Args:
        descriptor: of the open file.

    Attributes:
        count: bytes read so far.
        head: the first of them.
    """

    def __init__(self, descriptor: int) -> None:
        self.count = 0
        self.head = b""
        self._descriptor = descriptor
        self._stopped = threading.Event()

    def read(self, size: int = _READ_BYTES) -> bytes:
        """Return at most `size` bytes, as soon as there are any; nothing at the end, and after `stop`."""
        while _CAN_SELECT and not self._stopped.is_set():
            if select.select([self._descriptor], [], [], _LOOK_SECONDS)[0]:
                break
        if self._stopped.is_set():
            return b""
        data = os.read(self._descriptor, size)
        if len(self.head) < _KEPT_HEAD_BYTES:
            self.head = (self.head + data)[:_KEPT_HEAD_BYTES]
        self.count += len(data)
        return data

    def stop(self) -> None:
        """End: whoever waits in `read` is woken."""
        self._stopped.set()


class PipeOutput:
    """A file that is written to: the writing end of a pipe, whose reader may be slow, or gone.

    Args:
        descriptor: of the open file; closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped = threading.Event()
        self._closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it, waiting for the reader; after `stop` only as long as the reader goes on taking it.

        Raises:
            BrokenPipeError: the reader has gone, or does not read any more when `stop` was called.
        """
        view = memoryview(data).cast("B")
        written = 0
        waited = 0.0
        while written < len(view):
            if _CAN_SELECT and not select.select([], [self._descriptor], [], _LOOK_SECONDS)[1]:
                waited += _LOOK_SECONDS if self._stopped.is_set() else 0.0
                if waited > _GRACE_SECONDS:
                    raise BrokenPipeError
                continue
            waited = 0.0
            written += os.write(self._descriptor, view[written : written + _CHUNK_BYTES])
        return written

    def stop(self) -> None:
        """Wait no longer for a reader that takes nothing."""
        self._stopped.set()

    def close(self) -> None:
        """Close the file."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)


def take_stdin() -> PipeInput:
    """Take standard input for video.

    Raises:
        InputError: it is a terminal, or closed.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise InputError("standard input is closed: no video can come from it") from error
    if os.isatty(descriptor):
        raise InputError("standard input is a terminal: pipe a video into it, as in: cat clip.mkv | overnet-run - -o …")
    return PipeInput(descriptor)


def take_stdout() -> PipeOutput:
    """Take standard output for video; what else is printed there goes to standard error from now on.

    Raises:
        OutputError: it is a terminal, or closed.
    """
    try:
        descriptor = sys.stdout.fileno()
        errors = sys.stderr.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise OutputError("standard output is closed: no video can go to it") from error
    if os.isatty(descriptor):
        raise OutputError("standard output is a terminal: pipe it into another program, as in: overnet-run … -o - | …")
    sys.stdout.flush()
    output = os.dup(descriptor)
    # A library that prints would put its words between the images.
    os.dup2(errors, descriptor)
    return PipeOutput(output)
