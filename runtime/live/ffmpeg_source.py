"""Live sources through FFmpeg: network streams and, on Linux, cameras."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.live.source import CapturedFrame, ConnectionLost, Pacer
from overnet.runtime.video.demux import TAG_OPTIONS, main_stream
from overnet.runtime.video.frame import VideoInfo, describe_video

# To open, and between two frames: so that a server that died without a word is noticed. FFmpeg asks an RTSP server a
# second time, so that it takes twice as long; and a playlist's next part is waited for as long as a part lasts.
OPEN_SECONDS = 5.0
_READ_SECONDS = {"rtsp": 2.5, "rtsps": 2.5, "http": 30.0, "https": 30.0}
_USUAL_READ_SECONDS = 5.0
# What is read to find out what comes is late when it is shown, and so is left out where it can be told without.
_LOW_LATENCY = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}
# Errors that the next attempt meets as well.
_FINAL_ERRORS = tuple(
    getattr(av.error, name)
    for name in (
        "HTTPBadRequestError",
        "HTTPUnauthorizedError",
        "HTTPForbiddenError",
        "HTTPNotFoundError",
        "HTTPOtherClientError",
        "InvalidDataError",
        "ArgumentError",
        "ProtocolNotFoundError",
        "DemuxerNotFoundError",
        "FileNotFoundError",
        "PermissionError",
    )
)


@contextmanager
def connect_network(url: str, *, transport: str = "tcp") -> Iterator[Iterator[CapturedFrame]]:
    """Connect to a network stream; see `overnet.runtime.live.source.LiveSource`.

    Args:
        url: ``rtsp://`` and others that FFmpeg knows.
        transport: of RTSP: ``tcp`` or ``udp``.

    Raises:
        ConnectionLost: it is not there, or not any more.
    """
    scheme = url.partition("://")[0].lower()
    # What comes through HTTP comes in pieces of some seconds, or as a file, faster than it is to be shown.
    is_paced = scheme in ("http", "https")
    options = {} if is_paced else dict(_LOW_LATENCY)
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = transport
    with open_live(url, options=options) as container:
        yield decode_live(container, pacer=Pacer() if is_paced else None)


@contextmanager
def connect_camera(
    device: str, *, size: tuple[int, int] | None = None, rate: Fraction | None = None, driver: str = "v4l2"
) -> Iterator[Iterator[CapturedFrame]]:
    """Open a camera of this machine; see `overnet.runtime.live.source.LiveSource`.

    Args:
        device: such as ``/dev/video0``.
        size, rate: width and height in pixels, and frames a second; None for what the camera is set to.
        driver: FFmpeg's name of the kind of device.

    Raises:
        ConnectionLost: it is not there, is busy, or does not take the size or rate.
    """
    if driver == "v4l2" and not sys.platform.startswith("linux"):
        raise ConnectionLost("cameras are read on Linux only", is_final=True)
    if driver == "v4l2" and not Path(device).exists():
        raise ConnectionLost(f"there is no {device}", is_final=True)
    options = {}
    if size is not None:
        options["video_size"] = f"{size[0]}x{size[1]}"
    if rate is not None:
        options["framerate"] = str(rate)
    with open_live(device, options=options, format=driver) as container:
        yield decode_live(container)


@contextmanager
def open_live(target: str, *, options: Mapping[str, str], format: str | None = None) -> Iterator[InputContainer]:
    """Open what FFmpeg reads; errors become `ConnectionLost`, of this and of what is done with it."""
    scheme = target.partition("://")[0].lower()
    timeout = OPEN_SECONDS, _READ_SECONDS.get(scheme, _USUAL_READ_SECONDS)
    try:
        container: InputContainer = av.open(
            target, "r", format=format, options=dict(options), timeout=timeout, **TAG_OPTIONS
        )
        try:
            yield container
        finally:
            container.close()
    except (av.FFmpegError, OSError, ValueError) as error:
        # A camera that is just starting answers in all kinds of ways that make no sense yet.
        is_starting = isinstance(error, av.error.InvalidDataError) and scheme in ("rtsp", "rtsps")
        is_final = isinstance(error, _FINAL_ERRORS) and not is_starting
        raise ConnectionLost(_reason(error, options), is_final=is_final) from error


def decode_live(container: InputContainer, *, pacer: Pacer | None = None) -> Iterator[CapturedFrame]:
    """Yield the frames of an open stream as they come, each as soon as it can be decoded.

    Args:
        pacer: holds frames back that come before their time.

    Raises:
        ConnectionLost: there is no video in it.
    """
    try:
        stream = main_stream(container, Path("the stream"))
    except InputError as error:
        raise ConnectionLost(str(error), is_final=True) from error
    # Decoding several frames at once would hold back as many.
    stream.thread_type = "SLICE"
    info: VideoInfo | None = None
    for frame in _decode(container, stream):
        if pacer is not None:
            pacer.wait(None if frame.time is None else float(frame.time))
        at = time.monotonic()
        if info is None or (frame.width, frame.height) != (info.width, info.height):
            info = describe_video(container, stream, frame, "the stream")
            to_rgb = info.rgb_decoder()
        yield CapturedFrame(at, info, partial(to_rgb, frame))


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        # The empty one comes last, and gives what the decoder holds back.
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except av.FFmpegError:
            continue  # damaged, or in the middle of what began before we came
        # Grey until the first whole image, or smeared.
        yield from (frame for frame in frames if not frame.is_corrupt)


def _reason(error: Exception, options: Mapping[str, str]) -> str:
    """Why, without the address, which may have a password in it and which FFmpeg puts into its messages."""
    if isinstance(error, av.error.ExitError):
        return "nothing came for some seconds"
    reason: Any = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, av.error.InvalidDataError):
        return "what comes is no video FFmpeg knows"
    if "video_size" in options or "framerate" in options:
        asked = " at ".join(options[key] for key in ("video_size", "framerate") if key in options)
        return f"{reason} (asked for {asked})"
    return str(reason)
