"""GStreamer pipelines as text, for a Jetson's cameras, decoder and encoder and for pipelines of the user.

OpenCV runs them if it was built with GStreamer: JetPack's was, pip's was not.
"""

import ctypes
import functools
import re
from fractions import Fraction
from pathlib import Path

import cv2

from overnet.errors import InputError, MissingDependency
from overnet.runtime.live.addresses import without_secrets

# Characters without a meaning to GStreamer's parser; all others are escaped by a backslash.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]|[^\x00-\x7f]")
# OpenCV takes BGR, which NVIDIA's converter cannot produce; the CPU's converter does the last step.
_FROM_NVMM = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_FROM_MEMORY = "videoconvert ! video/x-raw,format=BGR"
# The end of a source that OpenCV reads: it keeps the newest frame only.
_NEWEST = "appsink drop=1 max-buffers=1"
_TO_NVMM = "videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12"
_HARDWARE_ENCODER = "nvv4l2h264enc"
_HARDWARE_DECODER = "nvv4l2decoder"
_MUXERS = {".mp4": "qtmux", ".m4v": "qtmux", ".mov": "qtmux", ".mkv": "matroskamux"}
_CODECS = {"h264": ("rtph264depay", "h264parse"), "hevc": ("rtph265depay", "h265parse")}
_RTSP_LATENCY_MS = 200
_BITS_PER_PIXEL = 0.12


def quoted(value: str) -> str:
    """Return the value of a property with all special characters escaped, for use in a pipeline.

    Raises:
        InputError: the value has a control character such as a line break, which cannot be escaped.
    """
    if any(ord(character) < 32 for character in value):
        raise InputError("a name with control characters cannot be put into a GStreamer pipeline")
    # Backslashes, not quotation marks: in those the parser takes a backslash before the closing mark for an escape.
    return "".join(character if _PLAIN.fullmatch(character) else f"\\{character}" for character in value)


def opencv_has_gstreamer() -> bool:
    """Tell whether this OpenCV was built with GStreamer."""
    return bool(re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE))


def require_gstreamer(purpose: str) -> None:
    """Check that OpenCV has GStreamer.

    Args:
        purpose: what needs it, as the beginning of the message.

    Raises:
        MissingDependency: this OpenCV was built without GStreamer.
    """
    if not opencv_has_gstreamer():
        raise MissingDependency(
            f"{purpose} needs GStreamer, which this OpenCV ({cv2.__version__}) was built without, as pip's are; use "
            "the system's or JetPack's in a virtual environment made with --system-site-packages"
        )


class _Error(ctypes.Structure):
    """GLib's GError."""

    _fields_ = [("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", ctypes.c_char_p)]


# Discards GStreamer's log messages on how OpenCV uses it, which the user can do nothing about.
_say_nothing = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda domain, level, message, data: None
)


@functools.cache
def _gstreamer() -> ctypes.CDLL | None:
    """Load and return the GStreamer library that OpenCV uses; None where it is not installed."""
    try:
        library, glib = ctypes.CDLL("libgstreamer-1.0.so.0"), ctypes.CDLL("libglib-2.0.so.0")
    except OSError:
        return None
    glib.g_log_set_default_handler(_say_nothing, None)
    library.gst_init(None, None)
    library.gst_element_factory_find.restype = ctypes.c_void_p
    library.gst_element_factory_find.argtypes = [ctypes.c_char_p]
    library.gst_parse_launch.restype = ctypes.c_void_p
    library.gst_parse_launch.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.POINTER(_Error))]
    library.gst_object_unref.argtypes = [ctypes.c_void_p]
    return library


def _has_element(name: str) -> bool:
    """Tell whether OpenCV's GStreamer has an element of this name; its hardware may be missing all the same."""
    library = _gstreamer() if opencv_has_gstreamer() else None
    return library is not None and bool(library.gst_element_factory_find(name.encode()))


def check_pipeline(pipeline: str, *, name: str) -> None:
    """Check that GStreamer can parse a pipeline: OpenCV would not report what is wrong with it.

    Args:
        pipeline: the pipeline.
        name: its name in messages.

    Raises:
        InputError: the pipeline has an error, or an element that is not installed.
    """
    library = _gstreamer()
    if library is None:
        return
    error = ctypes.POINTER(_Error)()
    parsed = library.gst_parse_launch(pipeline.encode(), ctypes.byref(error))
    if parsed:
        library.gst_object_unref(parsed)
    if error:
        reason = without_secrets((error.contents.message or b"it is not a valid pipeline").decode(errors="replace"))
        raise InputError(f"{name}: {reason}")


def can_decode_in_hardware() -> bool:
    """Tell whether this is a Jetson whose decoder OpenCV can use."""
    return _has_element(_HARDWARE_DECODER)


def can_encode_in_hardware() -> bool:
    """Tell whether this may be a Jetson whose encoder OpenCV can use: Orin Nanos have the element, not the hardware."""
    return _has_element(_HARDWARE_ENCODER)


def csi_pipeline(sensor: int, *, size: tuple[int, int], rate: Fraction) -> str:
    """Return the pipeline of a camera on a Jetson's CSI connector."""
    caps = f"video/x-raw(memory:NVMM),width={size[0]},height={size[1]},framerate={rate.numerator}/{rate.denominator}"
    return f"nvarguscamerasrc sensor-id={sensor} ! {caps} ! {_FROM_NVMM} ! {_NEWEST}"


def rtsp_pipeline(url: str, *, codec: str, transport: str, timeout_seconds: float) -> str:
    """Return the pipeline of an RTSP stream through a Jetson's decoder.

    Args:
        url: address of the stream.
        codec: FFmpeg's name of its codec, ``h264`` or ``hevc``.
        transport: transport of RTSP, ``tcp`` or ``udp``.
        timeout_seconds: how long to wait for the server.

    Raises:
        InputError: the decoder does not support the codec.
    """
    if codec not in _CODECS:
        raise InputError(f"the hardware decoder supports h264 and hevc, not {codec}: use --hardware off")
    unpack, parse = _CODECS[codec]
    micros = round(timeout_seconds * 1e6)
    source = (
        f"rtspsrc location={quoted(url)} latency={_RTSP_LATENCY_MS} protocols={transport} "
        f"tcp-timeout={micros} timeout={micros}"
    )
    return f"{source} ! {unpack} ! {parse} ! {_HARDWARE_DECODER} ! {_FROM_NVMM} ! {_NEWEST}"


def source_pipeline(text: str) -> str:
    """Return a user's pipeline with the end that OpenCV needs, unless it ends in an ``appsink`` already."""
    return text if "appsink" in text.rpartition("!")[2] else f"{text} ! {_FROM_MEMORY} ! {_NEWEST}"


def sink_pipeline(text: str, *, hardware: bool, size: tuple[int, int], rate: Fraction) -> str:
    """Return a user's pipeline for results; H.264 is encoded for it unless it begins with an ``appsrc`` itself.

    Args:
        text: the user's pipeline.
        hardware: whether a Jetson's encoder is used.
        size, rate: width and height in pixels, and frames per second; the bit rate follows from them.
    """
    if "appsrc" in text.partition("!")[0]:
        return text
    return f"appsrc ! {encoder_elements(hardware=hardware, size=size, rate=rate)} ! {text}"


def file_sink_pipeline(path: Path, *, size: tuple[int, int], rate: Fraction, hardware: bool = True) -> str | None:
    """Return the pipeline that writes a file of H.264; None for containers that GStreamer is not used for.

    Args:
        path: the file.
        size, rate, hardware: as for `sink_pipeline`.

    Raises:
        InputError: the file name has control characters.
    """
    muxer = _MUXERS.get(path.suffix.lower())
    if muxer is None:
        return None
    encoder = encoder_elements(hardware=hardware, size=size, rate=rate)
    return f"appsrc ! {encoder} ! {muxer} ! filesink location={quoted(str(path.absolute()))}"


def encoder_elements(*, hardware: bool, size: tuple[int, int], rate: Fraction) -> str:
    """Return the elements that encode OpenCV's images as H.264; parameters as for `sink_pipeline`."""
    bits = max(500_000, round(size[0] * size[1] * float(rate) * _BITS_PER_PIXEL))
    if hardware:
        return f"{_TO_NVMM} ! {_HARDWARE_ENCODER} insert-sps-pps=true bitrate={bits} ! h264parse"
    encoder = f"x264enc tune=zerolatency speed-preset=ultrafast bitrate={bits // 1000}"
    return f"videoconvert ! video/x-raw,format=I420 ! {encoder} ! h264parse"
