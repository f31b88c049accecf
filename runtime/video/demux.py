"""A video file as it lies on disk: opening it, and the clock of its streams."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from overnet.errors import InputError

# The a, b, c, d of a display matrix that changes nothing, in 16.16 fixed point.
UNSCALED_DISPLAY = (65536, 0, 0, 65536)
_DISPOSITION_ATTACHED_PIC = 0x400
_FORMAT_TS_DISCONT = 0x200
# A demuxer that fails this often in a row, without one packet in between, has nothing more to give.
_MAX_READ_FAILURES = 20
# Formats in which FFmpeg finds "video" in a text file.
_NOT_VIDEO = {"tty"}

# Tags in a foreign encoding are carried as they are. PyAV 19 does so by itself and knows no such option any more.
TAG_OPTIONS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}

# FFmpeg reports to its caller; its log belongs on nobody's terminal. SVT-AV1 asks the environment instead.
av.logging.set_level(None)
os.environ.setdefault("SVT_LOG", "1")


class TimestampRepair:
    """Keeps the timestamps of one stream rising where a broken file's do not.

    Args:
        time_base: seconds per tick.
        strictly: whether equal timestamps are a fault as well.
    """

    def __init__(self, time_base: Fraction, *, strictly: bool = True) -> None:
        self.repaired = 0
        self._one_second = int(1 / time_base)
        self._step = 1 if strictly else 0
        self._offset = 0
        self._last: int | None = None

    def __call__(self, ticks: int, duration: int) -> int:
        """Return the time, in ticks, at which what lasts ``duration`` ticks is to be placed."""
        placed = ticks + self._offset
        if self._last is not None and placed < self._last + self._step:
            self.repaired += 1
            if self._last - placed > self._one_second:
                # The clock began anew, as in files put together: go on from here by the new clock.
                self._offset += self._last + max(1, duration) - placed
                placed = ticks + self._offset
            else:
                placed = self._last + self._step
        self._last = placed
        return placed


def open_source(path: Path) -> InputContainer:
    """Open a local file for reading.

    Raises:
        InputError: it is missing, a folder, empty, unreadable, or not a media file.
    """
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video")
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        # Absolute, so that a name such as 12:30.mp4 is not taken for a protocol; metadata need not be UTF-8.
        container: InputContainer = av.open(str(path.absolute()), "r", **TAG_OPTIONS)
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied") from error
        raise InputError(f"{path} is not a video FFmpeg can read, or is damaged or cut off") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return container


def is_cover(stream: Any) -> bool:
    """Whether a stream is a still cover image rather than video."""
    return bool(disposition(stream) & _DISPOSITION_ATTACHED_PIC)


def disposition(stream: Any) -> int:
    """FFmpeg's disposition flags of a stream: default, forced, cover and the like; 0 where PyAV does not tell."""
    flags = getattr(stream, "disposition", 0)
    return int(getattr(flags, "value", flags))


def codec_name(stream: Any) -> str:
    """Name of a stream's codec, not of the decoder for it, as far as there is one."""
    codec = getattr(stream.codec_context, "codec", None)
    return str(getattr(codec, "canonical_name", None) or getattr(stream, "name", None) or "unknown codec")


def origin_seconds(container: InputContainer) -> Fraction:
    """Time of the beginning in formats whose clock starts anywhere; 0 in those that begin at 0 by definition."""
    if int(container.format.flags) & _FORMAT_TS_DISCONT and container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    return Fraction(0)


def main_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the video of a file: its first video stream that is no cover image and can be decoded.

    Raises:
        InputError: there is none.
    """
    if container.format.name in _NOT_VIDEO:
        raise InputError(f"{path} is a text file, not a video")
    images = [stream for stream in container.streams.video if not is_cover(stream)]
    # A stream without a decoder has no codec context.
    for stream in images:
        if stream.codec_context is not None:
            return stream
    if images:
        raise InputError(f"{path}: its video codec is not one this FFmpeg can decode")
    found = sorted({stream.type for stream in container.streams if stream.type != "video"})
    raise InputError(f"{path} has no video stream" + (f", only {' and '.join(found)}" if found else ""))


def read_packets(container: InputContainer, streams: Sequence[Any]) -> Iterator[av.Packet[Any]]:
    """Yield the packets of some streams in the order of the file, going on after damage as far as possible."""
    failures = 0
    while failures < _MAX_READ_FAILURES:
        try:
            for packet in container.demux(*streams):
                # The empty packets at the end would flush decoders.
                if packet.size:
                    failures = 0
                    yield packet
            return
        except av.FFmpegError:
            failures += 1
