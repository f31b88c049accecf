"""Live sources through FFmpeg: network streams and, on Linux, cameras."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.container.demux import TAG_OPTIONS, error_reason, main_stream
from overnet.runtime.live.source import CapturedFrame, ConnectionLost, Pacer
from overnet.runtime.video.frame import VideoInfo, describe_video

# Timeouts for opening, and between two frames, so that a server that died without closing the connection is noticed.
# FFmpeg asks an RTSP server twice, which doubles the time; the next part of an HTTP playlist may take a part's length.
OPEN_SECONDS = 5.0
_READ_SECONDS = {"rtsp": 2.5, "rtsps": 2.5, "http": 30.0, "https": 30.0}
_USUAL_READ_SECONDS = 5.0
# Frames that are buffered while FFmpeg analyses the stream are late when they are shown: keep that phase short.
_LOW_LATENCY = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}
_WEB_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,data"
_NETWORK_PROTOCOLS = f"{_WEB_PROTOCOLS},udp,udplite,rtp,srtp,rtmp,rtmps,rtmpt,rtmpe,srt"
# Errors that another attempt would meet again.
_FINAL_ERRORS = tuple(
    getattr(av.error, f"{name}Error")
    for name in (
        *("HTTPBadRequest", "HTTPUnauthorized", "HTTPForbidden", "HTTPNotFound", "HTTPOtherClient", "InvalidData"),
        *("Argument", "ProtocolNotFound", "DemuxerNotFound", "FileNotFound", "Permission"),
    )
)


@contextmanager
def connect_network(url: str, *, transport: str = "tcp") -> Iterator[Iterator[CapturedFrame]]:
    """Connect to a network stream; see `overnet.runtime.live.source.LiveSource`.

    Args:
        url: ``rtsp://`` or another protocol that FFmpeg knows.
        transport: transport of RTSP, ``tcp`` or ``udp``.

    Raises:
        ConnectionLost: the stream is not available, or not any longer.
    """
    scheme = url.partition("://")[0].lower()
    # HTTP delivers parts of some seconds, or a whole file, faster than the frames are to be shown.
    is_paced = scheme in ("http", "https")
    options = {} if is_paced else dict(_LOW_LATENCY)
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = transport
    # A playlist of a server does not determine that files of this machine are opened.
    options["protocol_whitelist"] = _WEB_PROTOCOLS if is_paced else _NETWORK_PROTOCOLS
    with open_live(url, options=options) as container:
        if is_paced and container.duration and container.streams.video:
            raise ConnectionLost(
                f"this is a finite video of {container.duration / av.time_base:.1f} s, not a live stream: "
                "download it first, as with curl -O, or with ffmpeg -i ADDRESS -c copy clip.mkv",
                is_final=True,
            )
        yield decode_live(container, pacer=Pacer() if is_paced else None)


@contextmanager
def connect_camera(
    device: str, *, size: tuple[int, int] | None = None, rate: Fraction | None = None, driver: str = "v4l2"
) -> Iterator[Iterator[CapturedFrame]]:
    """Open a camera of this machine; see `overnet.runtime.live.source.LiveSource`.

    Args:
        device: path of the device, such as ``/dev/video0``.
        size, rate: width and height in pixels, and frames per second; None for the camera's current setting.
        driver: FFmpeg's name of the input device.

    Raises:
        ConnectionLost: the camera is missing or busy, or does not support the size or rate.
    """
    if driver == "v4l2" and not sys.platform.startswith("linux"):
        raise ConnectionLost("cameras can be read on Linux only", is_final=True)
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
    """Open a URL or device with FFmpeg; errors of opening it and of the block become `ConnectionLost`."""
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
        # A network camera that is starting up may send data that is not yet valid.
        is_starting = isinstance(error, av.error.InvalidDataError) and scheme in ("rtsp", "rtsps")
        is_final = isinstance(error, _FINAL_ERRORS) and not is_starting
        raise ConnectionLost(_reason(error, options), is_final=is_final) from error


def decode_live(container: InputContainer, *, pacer: Pacer | None = None) -> Iterator[CapturedFrame]:
    """Yield the frames of an open stream, each as soon as it is decoded.

    Args:
        container: the open stream; the caller closes it.
        pacer: delays frames that arrive before they are to be shown.

    Raises:
        ConnectionLost: the stream has no video.
    """
    try:
        stream = main_stream(container, Path("the stream"))
    except InputError as error:
        raise ConnectionLost(str(error), is_final=True) from error
    # Decoding several frames in parallel would delay each by as many.
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
        # The empty packet comes last, and flushes the decoder.
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except av.FFmpegError:
            continue  # damaged, or dependent on images sent before the connection
        # Corrupt frames are grey or smeared, until the first complete image.
        yield from (frame for frame in frames if not frame.is_corrupt)


def _reason(error: Exception, options: Mapping[str, str]) -> str:
    """Return the reason without the address, which FFmpeg puts into its messages and which may contain a password."""
    if isinstance(error, av.error.ExitError):
        return "nothing came for some seconds"
    if isinstance(error, av.error.InvalidDataError):
        return "the data is not a video FFmpeg can read"
    if "video_size" in options or "framerate" in options:
        asked = " at ".join(options[key] for key in ("video_size", "framerate") if key in options)
        return f"{error_reason(error)} (requested: {asked})"
    return error_reason(error)
