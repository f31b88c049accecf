"""Output formats: the container of a file suffix, the encoder of a name, its quality and pixel format."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
from av.codec.codec import Codec, UnknownCodecError

from overnet.errors import InputError, OutputError
from overnet.runtime.container.demux import error_reason
from overnet.runtime.video.frame import MAX_SIDE_PX

# FFmpeg's FF_QP2LAMBDA: the unit of the quality of encoders that have no rate factor.
_LAMBDA_PER_QP = 118


@dataclass(frozen=True)
class OutputFormat:
    """A container format.

    Args:
        name: FFmpeg's name of the muxer.
        encoders: the default encoders, of which the first that exists is used.
        options: options of the muxer.
        keeps_rotation: whether it stores a display matrix.
        keeps_aspect: whether it stores the shape of a pixel; otherwise only the codec can.
        tick: seconds that times are rounded to; None if it stores any time base.
        has_constant_rate: whether it stores a frame rate in place of timestamps.
    """

    name: str
    encoders: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    keeps_rotation: bool = False
    keeps_aspect: bool = False
    tick: Fraction | None = None
    has_constant_rate: bool = False


@dataclass(frozen=True)
class Encoding:
    """Settings of an encoder.

    Args:
        codec: ``h264``, ``hevc``, ``vp9``, ``av1`` or an FFmpeg encoder's name; None for the container's default.
        crf: quality on the scale of x264's crf, lower is better; None for one that looks like the source.
        options: the encoder's own options; they take precedence over those that follow from the quality.
        threads: number of threads; 0 lets the encoder choose.
    """

    codec: str | None = None
    crf: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0


DEFAULT_ENCODING = Encoding()
_H264 = ("libx264", "libopenh264", "h264_videotoolbox", "h264_nvenc", "h264_v4l2m2m", "mpeg4")
_HEVC = ("libx265", "libkvazaar", "hevc_videotoolbox", "hevc_nvenc")
_AV1 = ("libsvtav1", "libaom-av1", "librav1e")
_VP9 = ("libvpx-vp9",)
# Frames between keyframes, a multiple of 8: VP9's quality follows a pattern of 8 frames from the first one on, which a
# segment then begins where one pass does. Elsewhere FFmpeg has 12, of which it is a multiple as well.
_KEYFRAME_INTERVAL = "240"
# What makes the first keyframe as good as one that one encoder makes behind other frames: rate control without such
# frames gives it fewer bits. Options of encoders that begin a segment behind the first one.
_CONTINUING = {
    "libx264": ("x264-params", "zones=0,0,b=1.4"),  # its ratio of I and P frames
    "libx264rgb": ("x264-params", "zones=0,0,b=1.4"),
    "libx265": ("x265-params", "zones=0,1,b=1.2"),
}
# MPEG-4 part 2 and its predecessors store times in a clock of at most 16 bits: the time base has to be near the rate.
_COARSE_CLOCK = {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "h263"}
# The worst quality of most encoders, and of those for VP9 and AV1.
_WORST_CRF, _WORST_WIDE_CRF = 51, 63
_MILLISECOND = Fraction(1, 1000)
# With the index at the front, a browser can play the file while it loads.
_FAST_START = (("movflags", "+faststart"),)
_MP4 = OutputFormat("mp4", _H264, _FAST_START, keeps_rotation=True, keeps_aspect=True)
_FORMATS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": OutputFormat("mov", _H264, _FAST_START, keeps_rotation=True, keeps_aspect=True),
    ".mkv": OutputFormat("matroska", _H264, keeps_rotation=True, tick=_MILLISECOND),
    ".webm": OutputFormat("webm", (*_VP9, *_AV1), tick=_MILLISECOND),
    ".avi": OutputFormat("avi", _H264, has_constant_rate=True),
}
VIDEO_SUFFIXES: frozenset[str] = frozenset(_FORMATS)
_ALIASES = {
    **dict.fromkeys(("h264", "avc", "x264"), _H264),
    **dict.fromkeys(("hevc", "h265", "x265"), _HEVC),
    **{"av1": _AV1, "vp9": _VP9},
}


# Each second of Matroska is closed and written out; other formats ignore the first option.
_SURVIVING = {"cluster_time_limit": "1000", "flush_packets": "1"}


def output_format(path: Path) -> OutputFormat:
    """Return the container for the suffix of a file name.

    Raises:
        OutputError: the suffix is not supported.
    """
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise OutputError(f"{path}: cannot write '{path.suffix}' video; use one of {', '.join(_FORMATS)}")
    return found


def muxer_options(
    container: OutputFormat, time_base: Fraction, *, is_live: bool = False, has_apple_tags: bool = False
) -> dict[str, str]:
    """Return the muxer's options for a container.

    Args:
        container: the container.
        time_base: seconds per tick of the video's clock.
        is_live: whether what is written has to survive a power cut, about a second of it apart.
        has_apple_tags: whether the tags include those of an Apple device.
    """
    options = dict(container.options)
    if is_live:
        options |= _SURVIVING
    if "movflags" in options:
        if has_apple_tags:
            options["movflags"] += "+use_metadata_tags"
        # Offsets between streams are stored in this clock; its default of 1 ms would round them.
        options["movie_timescale"] = str(max(1000, time_base.denominator))
    return options


def encoding_for_all_machines(encoding: Encoding, container: OutputFormat, *, height: int, cores: int) -> Encoding:
    """Return settings with which machines with other numbers of cores encode what this one does.

    x264 decides by the number of its threads, which by default follows from the cores. Other encoders that do so have
    rules of their own, and are left as they are.

    Args:
        encoding: the settings for this machine.
        container: of the video.
        height: of the images, in pixels.
        cores: of this machine.
    """
    if encoding.threads or find_encoder(encoding, container).name != "libx264":
        return encoding
    # x264's own rule; a pair of rows of macroblocks is the least that it gives a thread.
    most = max(1, (height + 15) // 16 // 2)
    return replace(encoding, threads=min(128, most, max(1, cores * 3 // 2)))


def find_encoder(encoding: Encoding, container: OutputFormat) -> Codec:
    """Return the encoder for the name of a codec or encoder, or the container's default where none is named.

    Raises:
        OutputError: this FFmpeg has no such video encoder.
        InputError: the quality is out of the encoder's range.
    """
    name = encoding.codec
    candidates = container.encoders if name is None else _ALIASES.get(name.lower(), (name,))
    for candidate in candidates:
        try:
            codec = Codec(candidate, "w")
        except UnknownCodecError:
            continue
        if codec.type == "video":
            highest = _WORST_WIDE_CRF if candidate in (*_AV1, *_VP9) else _WORST_CRF
            if encoding.crf is not None and not 0 <= encoding.crf <= highest:
                raise InputError(f"crf is {encoding.crf}; for {candidate} it must be between 0 (best) and {highest}")
            return codec
    wanted = name or " or ".join(candidates)
    raise OutputError(f"this FFmpeg has no video encoder '{wanted}'; h264, hevc, vp9 and av1 name the usual ones")


def choose_pixel_format(encoder: Codec, *, width: int, height: int) -> str:
    """Return the pixel format for an output of exactly this size.

    Every player shows 4:2:0. H.264 and HEVC cannot store an odd size in it; cutting or padding a line would change the
    image, so such a video is written in 4:4:4.

    Raises:
        OutputError: the encoder supports no suitable format.
    """
    supported = [pixel_format.name for pixel_format in encoder.video_formats or []]
    odd = bool(width % 2 or height % 2)
    any_size = encoder.name in ("libvpx-vp9", "libaom-av1", "ffv1", "rawvideo")
    wanted = ["yuv420p", "nv12"] if not odd or any_size else []
    if encoder.name == "mjpeg":
        wanted.insert(0, "yuvj420p")  # it refuses limited range
    wanted += ["yuv444p", "gbrp", "bgr0", "rgb24", "bgr24", "rgba"]
    if not odd:
        wanted += ["yuvj420p", "yuv422p", "yuvj422p"]
    if not supported:
        return wanted[0]
    for name in wanted:
        if name in supported:
            return name
    size = f"the odd size {width}x{height}" if odd else f"{width}x{height}"
    raise OutputError(f"encoder {encoder.name} takes no pixel format for {size}; try codec h264, or another scale")


def moves_frames(encoder: str, container: OutputFormat) -> bool:
    """Return whether times are stored in another clock than the source's, in which frames may have to be moved."""
    return container.has_constant_rate or encoder in _COARSE_CLOCK


def quality_options(encoder: str, crf: int | None, *, width: int, height: int, rate: Fraction) -> dict[str, str]:
    """Return an encoder's options for a quality on the scale of x264's crf: 0 is best, 18 looks like the source.

    The number is converted to the nearest setting of hardware encoders.

    Args:
        encoder: FFmpeg's name of the encoder.
        crf: the quality; None for one that looks like the source.
        width, height: size of the video in pixels.
        rate: frames per second; with the size, it gives a bit rate to encoders that have no setting of quality.
    """
    chosen = 18 if crf is None else crf
    # At the same number, x265 (0 to 51), VP9 and AV1 (0 to 63) look better than x264.
    newer = str(22 if crf is None else crf)
    wide = str(24 if crf is None else crf)
    quantizer = {"flags": "+qscale", "global_quality": str(_LAMBDA_PER_QP * max(1, round(chosen / 6)))}
    exact = {
        "libx264": {"crf": str(chosen), "preset": "medium"},
        "libx264rgb": {"crf": str(chosen), "preset": "medium"},
        # Groups of pictures are closed, as in the other formats, and as segments of a video have to be.
        "libx265": {"crf": newer, "preset": "medium", "x265-params": "log-level=none:open-gop=0"},
        "libvpx-vp9": {"crf": wide, "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
        "libsvtav1": {"crf": wide, "preset": "8"},
        "libaom-av1": {"crf": wide, "b": "0", "cpu-used": "6", "row-mt": "1"},
        "librav1e": {"qp": str(int(wide) * 4)},
        "ffv1": {},
        "huffyuv": {},
        "utvideo": {},
    }
    by_family = {
        "nvenc": {"rc": "vbr", "cq": str(chosen), "b": "0"},
        "qsv": {"global_quality": str(max(1, chosen))},
        "vaapi": {"qp": str(chosen)},
        "amf": {"rc": "cqp", "qp_i": str(chosen), "qp_p": str(chosen)},
        "videotoolbox": {"flags": "+qscale", "global_quality": str(_LAMBDA_PER_QP * max(1, 100 - chosen * 2))},
        # A tenth of a bit per pixel gives good H.264; the drivers' default is 200 kbit/s.
        "v4l2m2m": {"b": str(int(width * height * rate / 10))},
    }
    if encoder in (*_AV1, *_VP9, "libx264", "libx264rgb", "libx265"):
        exact[encoder]["g"] = _KEYFRAME_INTERVAL
    if encoder in exact:
        return exact[encoder]
    return by_family.get(encoder.rpartition("_")[2], quantizer)


def continuing(encoder: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return an encoder's options for images that follow those which another encoder has got."""
    name, value = _CONTINUING.get(encoder, ("", ""))
    if not name:
        return dict(options)
    return {**options, name: f"{options[name]}:{value}" if name in options else value}


def open_failure(encoder: str, error: av.FFmpegError | ValueError, size: tuple[int, int]) -> OutputError:
    """Return the error for an encoder that cannot start with images of this width and height."""
    hardware = "_" in encoder
    hint = "; check its hardware and driver, or try codec h264" if hardware else "; try another size or codec"
    reason = error_reason(error)
    if max(size) > MAX_SIDE_PX:  # encoders call it an invalid argument
        reason = f"the sides of a video may have up to {MAX_SIDE_PX} pixels"
        hint = "; choose a smaller --scale, --height or --width"
    return OutputError(f"encoder {encoder} cannot start with {size[0]}x{size[1]} pixels: {reason}{hint}")
