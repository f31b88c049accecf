"""Opening of media files, their streams and packets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from overnet.errors import InputError, one_line

# The a, b, c, d of a display matrix that changes nothing, in 16.16 fixed point.
UNSCALED_DISPLAY = (65536, 0, 0, 65536)
_DISPOSITION_ATTACHED_PIC = 0x400
_FORMAT_TS_DISCONT = 0x200
# A demuxer that fails this often without a packet in between is at the end of what can be read.
_MAX_READ_FAILURES = 20
# Formats as which FFmpeg reads a text file.
_TEXT_FORMATS = {"tty"}

# Metadata in another encoding than UTF-8 is kept as it is. PyAV 19 does so without this option, which it removed.
TAG_OPTIONS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}

# Formats of text that name other files or addresses, which FFmpeg would open.
_SCRIPT_FORMATS = {"concat", "dash", "ffmetadata", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest"}
# A file's content does not determine what else is opened.
MEDIA_ONLY = {
    "format_whitelist": ",".join(sorted(name for name in av.formats_available if name not in _SCRIPT_FORMATS)),
    "protocol_whitelist": "file,pipe",
}

# FFmpeg's errors are raised, so its log is not printed. SVT-AV1 has a setting of its own.
av.logging.set_level(None)
os.environ.setdefault("SVT_LOG", "1")


def error_reason(error: Exception) -> str:
    """Return the reason of an error of FFmpeg or the operating system: one line, without the file or address."""
    return one_line(getattr(error, "strerror", None) or error)


def open_source(path: Path, content: BinaryIO | None = None) -> InputContainer:
    """Open a local file for reading.

    Args:
        path: the file.
        content: what it contains, where `path` is only its name; it is closed with the container.

    Raises:
        InputError: it is missing, a folder, empty, unreadable, or not a media file.
    """
    try:
        if content is not None:
            opened: InputContainer = av.open(content, "r", options=MEDIA_ONLY, **TAG_OPTIONS)
            return opened
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video")
        if not path.is_file():  # the sound is read a second time
            raise InputError(f"{path} is a pipe or a device, not a file: send a video through standard input (-)")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        # Absolute, so that a name such as 12:30.mp4 is not taken for a protocol.
        container: InputContainer = av.open(str(path.absolute()), "r", options=MEDIA_ONLY, **TAG_OPTIONS)
    except av.FFmpegError as error:
        if isinstance(error, av.error.ArgumentError):
            raise InputError(
                f"{path} is not a video FFmpeg can read; playlists and scripts that name other files are not opened"
            ) from error
        if isinstance(error, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied") from error
        raise InputError(f"{path} is not a video FFmpeg can read, or is damaged or cut off") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return container


def is_cover(stream: Any) -> bool:
    """Tell whether a stream is a cover image rather than video."""
    return bool(disposition(stream) & _DISPOSITION_ATTACHED_PIC)


def disposition(stream: Any) -> int:
    """Return FFmpeg's disposition flags of a stream: default, forced, cover and the like; 0 where PyAV has none."""
    flags = getattr(stream, "disposition", 0)
    return int(getattr(flags, "value", flags))


def codec_name(stream: Any) -> str:
    """Return the name of a stream's codec, not of its decoder, or "unknown codec"."""
    codec = getattr(stream.codec_context, "codec", None)
    return str(getattr(codec, "canonical_name", None) or getattr(stream, "name", None) or "unknown codec")


def has_transport_clock(container: InputContainer) -> bool:
    """Tell whether a format's clock starts at any value, and may restart (MPEG-TS)."""
    return bool(int(container.format.flags) & _FORMAT_TS_DISCONT)


def origin_seconds(container: InputContainer) -> Fraction:
    """Return the start time of formats whose clock starts at any value (MPEG-TS); 0 for all others."""
    if has_transport_clock(container) and container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    return Fraction(0)


def main_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream of a file that is not a cover image and can be decoded.

    Args:
        container: the open file.
        path: its name in messages.

    Raises:
        InputError: there is none, or the file is a text file.
    """
    if container.format.name in _TEXT_FORMATS:
        raise InputError(f"{path} is a text file, not a video")
    images = [stream for stream in container.streams.video if not is_cover(stream)]
    # A stream without a decoder has no codec context.
    for stream in images:
        if stream.codec_context is not None:
            return stream
    if images:
        raise InputError(f"{path}: this FFmpeg cannot decode its video codec")
    found = sorted({stream.type for stream in container.streams if stream.type != "video"})
    raise InputError(f"{path} has no video stream" + (f", only {' and '.join(found)}" if found else ""))


def read_packets(container: InputContainer, streams: Sequence[Any]) -> Iterator[av.Packet[Any]]:
    """Yield the packets of some streams in the order of the file, continuing after damage as far as possible."""
    failures = 0
    while failures < _MAX_READ_FAILURES:
        try:
            for packet in container.demux(*streams):
                # Empty packets, at the end, are for flushing decoders.
                if packet.size:
                    failures = 0
                    yield packet
            return
        except av.FFmpegError:
            failures += 1
