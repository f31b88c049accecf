"""Standard input and output as pipes whose reads and writes can be stopped by another thread."""

import os
import select
import sys
import threading

from overnet.errors import InputError, OutputError

# Interval at which a waiting read or write checks whether it was stopped.
_POLL_SECONDS = 0.1
_READ_BYTES = 1 << 20
# A pipe that is ready for writing accepts this much without blocking (POSIX's PIPE_BUF).
_CHUNK_BYTES = getattr(select, "PIPE_BUF", 512)
_KEPT_HEAD_BYTES = 512
# How long to wait, once stopped, for a reader that does not read.
_GRACE_SECONDS = 2.0
# On Windows, `select` does not support pipes.
_CAN_SELECT = sys.platform != "win32"


class PipeInput:
    """The reading end of a pipe, as a file object for FFmpeg.

    Args:
        descriptor: descriptor of the open file.

    Attributes:
        count: number of bytes read so far.
        head: the first 512 of them.
    """

    def __init__(self, descriptor: int) -> None:
        self.count = 0
        self.head = b""
        self._descriptor = descriptor
        self._stopped = threading.Event()

    def read(self, size: int = _READ_BYTES) -> bytes:
        """Return at most `size` bytes as soon as there are any; none at the end and after `stop`."""
        while _CAN_SELECT and not self._stopped.is_set():
            if select.select([self._descriptor], [], [], _POLL_SECONDS)[0]:
                break
        if self._stopped.is_set():
            return b""
        data = os.read(self._descriptor, size)
        if len(self.head) < _KEPT_HEAD_BYTES:
            self.head = (self.head + data)[:_KEPT_HEAD_BYTES]
        self.count += len(data)
        return data

    def stop(self) -> None:
        """Make `read` return no more data, also if it is waiting."""
        self._stopped.set()


class PipeOutput:
    """The writing end of a pipe, as a file object for FFmpeg.

    Args:
        descriptor: descriptor of the open file; `close` closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped = threading.Event()
        self._closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Write all data, waiting for the reader; after `stop`, only as long as the reader keeps reading.

        Raises:
            BrokenPipeError: the reader has closed the pipe, or `stop` was called and it does not read.
        """
        view = memoryview(data).cast("B")
        written = 0
        waited = 0.0
        while written < len(view):
            if _CAN_SELECT and not select.select([], [self._descriptor], [], _POLL_SECONDS)[1]:
                waited += _POLL_SECONDS if self._stopped.is_set() else 0.0
                if waited > _GRACE_SECONDS:
                    raise BrokenPipeError
                continue
            waited = 0.0
            written += os.write(self._descriptor, view[written : written + _CHUNK_BYTES])
        return written

    def stop(self) -> None:
        """Stop waiting for a reader that does not read."""
        self._stopped.set()

    def close(self) -> None:
        """Close the file."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)


def take_stdin() -> PipeInput:
    """Return standard input as a pipe for video.

    Raises:
        InputError: standard input is a terminal, or closed.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise InputError("standard input is closed: no video can be read from it") from error
    if os.isatty(descriptor):
        raise InputError("standard input is a terminal: pipe a video into it, as in: cat clip.mkv | overnet-run - -o …")
    return PipeInput(descriptor)


def take_stdout() -> PipeOutput:
    """Return standard output as a pipe for video; from then on, everything printed there goes to standard error.

    Raises:
        OutputError: standard output is a terminal, or closed.
    """
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise OutputError("standard output is closed: no video can be written to it") from error
    if os.isatty(descriptor):
        raise OutputError("standard output is a terminal: pipe it into another program, as in: overnet-run … -o - | …")
    sys.stdout.flush()
    output = os.dup(descriptor)
    # Text that a library prints would corrupt the video; it goes to standard error.
    os.dup2(2, descriptor)
    return PipeOutput(output)
