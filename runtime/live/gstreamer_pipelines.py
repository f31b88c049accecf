"""GStreamer's pipelines as text: what a Jetson's cameras, decoder and encoder are reached through.

OpenCV runs them, where it was built with GStreamer: JetPack's was, pip's was not.
"""

from __future__ import annotations

import ctypes
import functools
import re
from fractions import Fraction
from pathlib import Path

import cv2

from overnet.errors import InputError, MissingDependency
from overnet.runtime.live.addresses import without_secrets

# Characters that mean nothing to GStreamer's parser; all others get a backslash before them.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]|[^\x00-\x7f]")
# BGR is what OpenCV takes. NVIDIA's converter does not make it; the CPU's does the last step.
_FROM_NVMM = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_FROM_MEMORY = "videoconvert ! video/x-raw,format=BGR"
# OpenCV's end of a source: the newest frame, and no queue.
_NEWEST = "appsink drop=1 max-buffers=1"
_TO_NVMM = "videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12"
_HARDWARE_ENCODER = "nvv4l2h264enc"
_HARDWARE_DECODER = "nvv4l2decoder"
_MUXERS = {".mp4": "qtmux", ".m4v": "qtmux", ".mov": "qtmux", ".mkv": "matroskamux"}
_CODECS = {"h264": ("rtph264depay", "h264parse"), "hevc": ("rtph265depay", "h265parse")}
_RTSP_LATENCY_MS = 200
_BITS_PER_PIXEL = 0.12


def quoted(value: str) -> str:
    """A value of a property as a pipeline takes it, whatever characters it has.

    Raises:
        InputError: it has a line break or another control character, for which there is no way.
    """
    if any(ord(character) < 32 for character in value):
        raise InputError("a name with control characters cannot be put into a GStreamer pipeline")
    # By backslashes, not in quotation marks: the parser takes a backslash before the closing one for part of the value.
    return "".join(character if _PLAIN.fullmatch(character) else f"\\{character}" for character in value)


def opencv_has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return bool(re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE))


def require_gstreamer(purpose: str) -> None:
    """Refuse to go on without GStreamer.

    Raises:
        MissingDependency: this OpenCV has none.
    """
    if not opencv_has_gstreamer():
        raise MissingDependency(
            f"{purpose} needs GStreamer, which this OpenCV ({cv2.__version__}) was built without: pip's is; use the "
            "system's or JetPack's in a virtual environment made with --system-site-packages"
        )


class _Error(ctypes.Structure):
    """GLib's GError."""

    _fields_ = [("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", ctypes.c_char_p)]


# Takes GStreamer's remarks on what OpenCV does with it: nothing that a user can help.
_say_nothing = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda domain, level, message, data: None
)


@functools.cache
def _gstreamer() -> ctypes.CDLL | None:
    """The library that OpenCV uses; None where it is not installed."""
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


def has_element(name: str) -> bool:
    """Whether GStreamer has an element of this name; it does not say that its hardware is there."""
    library = _gstreamer()
    return library is not None and bool(library.gst_element_factory_find(name.encode()))


def check_pipeline(pipeline: str, *, name: str) -> None:
    """Refuse a pipeline that GStreamer does not understand, of which OpenCV would not say why.

    Args:
        name: what the message calls it.

    Raises:
        InputError: a mistake in it, or an element that is not there.
    """
    library = _gstreamer()
    if library is None:
        return
    error = ctypes.POINTER(_Error)()
    parsed = library.gst_parse_launch(pipeline.encode(), ctypes.byref(error))
    if parsed:
        library.gst_object_unref(parsed)
    if error:
        reason = without_secrets((error.contents.message or b"it is wrong").decode(errors="replace"))
        raise InputError(f"{name}: {reason}")


def can_decode_in_hardware() -> bool:
    """Whether this is a Jetson whose decoder OpenCV can reach."""
    return opencv_has_gstreamer() and has_element(_HARDWARE_DECODER)


def can_encode_in_hardware() -> bool:
    """Whether this may be a Jetson whose encoder OpenCV can reach: Orin Nanos have the element without the hardware."""
    return opencv_has_gstreamer() and has_element(_HARDWARE_ENCODER)


def csi_pipeline(sensor: int, *, size: tuple[int, int], rate: Fraction) -> str:
    """The camera on a Jetson's CSI connector."""
    caps = f"video/x-raw(memory:NVMM),width={size[0]},height={size[1]},framerate={rate.numerator}/{rate.denominator}"
    return f"nvarguscamerasrc sensor-id={sensor} ! {caps} ! {_FROM_NVMM} ! {_NEWEST}"


def rtsp_pipeline(url: str, *, codec: str, transport: str, timeout_seconds: float) -> str:
    """An RTSP stream of H.264 or HEVC (FFmpeg's names ``h264`` and ``hevc``) through a Jetson's decoder.

    Raises:
        InputError: the decoder does not take the codec.
    """
    if codec not in _CODECS:
        raise InputError(f"the hardware decoder takes h264 and hevc, not {codec}: use --hardware off")
    unpack, parse = _CODECS[codec]
    micros = round(timeout_seconds * 1e6)
    source = (
        f"rtspsrc location={quoted(url)} latency={_RTSP_LATENCY_MS} protocols={transport} "
        f"tcp-timeout={micros} timeout={micros}"
    )
    return f"{source} ! {unpack} ! {parse} ! {_HARDWARE_DECODER} ! {_FROM_NVMM} ! {_NEWEST}"


def source_pipeline(text: str) -> str:
    """A user's pipeline, with what OpenCV needs at its end unless it ends in an ``appsink`` already."""
    return text if "appsink" in text.rpartition("!")[2] else f"{text} ! {_FROM_MEMORY} ! {_NEWEST}"


def sink_pipeline(text: str, *, hardware: bool, size: tuple[int, int], rate: Fraction) -> str:
    """A user's pipeline for results, encoded as H.264 unless it begins with an ``appsrc`` itself.

    Args:
        hardware: whether a Jetson's encoder is used.
        size, rate: width and height in pixels, and frames a second, which the bit rate follows from.
    """
    if "appsrc" in text.partition("!")[0]:
        return text
    return f"appsrc ! {encoder_elements(hardware=hardware, size=size, rate=rate)} ! {text}"


def file_sink_pipeline(path: Path, *, size: tuple[int, int], rate: Fraction, hardware: bool = True) -> str | None:
    """A file, encoded as H.264; None for containers that are not written this way. Parameters as for `sink_pipeline`.

    Raises:
        InputError: the name has control characters.
    """
    muxer = _MUXERS.get(path.suffix.lower())
    if muxer is None:
        return None
    encoder = encoder_elements(hardware=hardware, size=size, rate=rate)
    return f"appsrc ! {encoder} ! {muxer} ! filesink location={quoted(str(path.absolute()))}"


def encoder_elements(*, hardware: bool, size: tuple[int, int], rate: Fraction) -> str:
    """From OpenCV's images to H.264."""
    bits = max(500_000, round(size[0] * size[1] * float(rate) * _BITS_PER_PIXEL))
    if hardware:
        return f"{_TO_NVMM} ! {_HARDWARE_ENCODER} insert-sps-pps=true bitrate={bits} ! h264parse"
    encoder = f"x264enc tune=zerolatency speed-preset=ultrafast bitrate={bits // 1000}"
    return f"videoconvert ! video/x-raw,format=I420 ! {encoder} ! h264parse"
