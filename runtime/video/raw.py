"""Video from a pipe, headerless or in any container, and to a pipe as Y4M or headerless frames."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from overnet.errors import InputError
from overnet.runtime.container.demux import MEDIA_ONLY, TAG_OPTIONS
from overnet.runtime.container.stdio import PipeInput, PipeOutput
from overnet.runtime.video.color import MATRIX_RGB, RgbEncoder, guess_matrix
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.frame import Frame, FrameWriter, check_size
from overnet.runtime.video.reader import VideoReader

PIPE = Path("-")
_NAME = "standard input"
_Y4M_HEADER = re.compile(rb"YUV4MPEG2 [^\n]*\n")
_Y4M_FRAME_HEADER = b"FRAME\n"
_USUAL_FORMATS = "rgb24, bgr24, yuv420p and nv12"
# Their conversion to RGB ends the process.
_ABORTING_FORMATS = {"yaf32be", "yaf32le"}
_MATRIX_NAMES = {1: "BT.709", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}


@dataclass(frozen=True)
class RawFormat:
    """The format of headerless video.

    Args:
        width, height: size in pixels.
        pixel_format: FFmpeg's name, such as ``rgb24`` or ``yuv420p``.
        rate: frames per second.

    Raises:
        InputError: the size or rate is out of range, or there is no such pixel format.
    """

    width: int
    height: int
    pixel_format: str = "rgb24"
    rate: Fraction = Fraction(25)

    def __post_init__(self) -> None:
        check_size(self.width, self.height, "raw video")
        if not 0 < self.rate <= 1000:
            raise InputError(f"the rate is {float(self.rate):g} frames a second; it must be above 0 and at most 1000")
        check_pixel_format(self.pixel_format, is_output=False)

    @property
    def frame_bytes(self) -> int:
        """Return the size of a frame in bytes."""
        return frame_bytes(self.pixel_format, self.width, self.height)


def check_pixel_format(name: str, *, is_output: bool) -> None:
    """Check that FFmpeg has a pixel format of this name, and converts it to RGB, or RGB to it for an output.

    Raises:
        InputError: it has none, or does not convert it.
    """
    try:
        is_known = bool(VideoFormat(name).components)  # formats of hardware, such as cuda, have none
    except ValueError:
        is_known = False
    if not is_known:
        raise InputError(f"no pixel format is named '{name}'; usual ones are {_USUAL_FORMATS}")
    try:
        if name in _ABORTING_FORMATS:
            raise ValueError
        VideoFrame(16, 16, "rgb24" if is_output else name).reformat(format=name if is_output else "rgb24")
    except (OSError, ValueError) as error:
        verb = "written" if is_output else "read"
        raise InputError(
            f"raw video of pixel format '{name}' cannot be {verb}; usual ones are {_USUAL_FORMATS}"
        ) from error


def frame_bytes(pixel_format: str, width: int, height: int) -> int:
    """Return the size in bytes of a frame without padding between its lines."""
    return int(_packed(VideoFrame(width, height, pixel_format)).size)


def _packed(image: VideoFrame) -> Any:
    """Return the pixels of a frame without padding between its lines, as a packet, whose bytes can be read."""
    packer: Any = VideoCodecContext.create("rawvideo", "w")
    packer.width, packer.height, packer.pix_fmt = image.width, image.height, image.format.name
    packer.time_base = Fraction(1, 25)  # FFmpeg requires one
    (packet,) = packer.encode(image)
    return packet


class PipeReader(VideoReader):
    """A reader of a video from a pipe.

    Args:
        pipe: the pipe.
        raw: the format of headerless video; None for a container, which FFmpeg recognises.
        start_seconds, max_frames: as for `VideoReader`.

    Raises:
        InputError: the pipe is empty, or its data is not a video.
    """

    def __init__(
        self,
        pipe: PipeInput,
        *,
        raw: RawFormat | None = None,
        start_seconds: float = 0.0,
        max_frames: int | None = None,
    ) -> None:
        self._pipe = pipe
        self._raw = raw
        container = self._open()
        try:
            super().__init__(_NAME, start_seconds=start_seconds, max_frames=max_frames, opened=container)
        except InputError as error:
            if raw is not None and pipe.count < raw.frame_bytes:
                raise self._too_little() from error
            raise
        if len(container.streams) > 1:
            self.notes.append("only the image is read from a pipe: sound and subtitles are left out")

    def stop(self) -> None:
        """Stop waiting for data: the pipe counts as ended."""
        self._pipe.stop()

    def _open(self) -> InputContainer:
        options = dict(MEDIA_ONLY)
        if self._raw is not None:
            options |= {
                "video_size": f"{self._raw.width}x{self._raw.height}",
                "pixel_format": self._raw.pixel_format,
                "framerate": str(self._raw.rate),
            }
        try:
            container: InputContainer = av.open(
                self._pipe,
                "r",
                format=None if self._raw is None else "rawvideo",
                options=options,
                buffer_size=1 << 18,
                **TAG_OPTIONS,
            )
            return container
        except (av.FFmpegError, OSError, ValueError) as error:
            if not self._pipe.count:
                raise InputError(f"{_NAME} is empty: no video was read") from error
            if self._raw is not None:
                raise self._too_little() from error
            raise InputError(
                f"{_NAME} is not a video FFmpeg can read; for headerless video give --raw WIDTHxHEIGHT"
            ) from error

    def _too_little(self) -> InputError:
        assert self._raw is not None
        raw = self._raw
        return InputError(
            f"{_NAME} gave {self._pipe.count} bytes, and one frame of {raw.width}x{raw.height} {raw.pixel_format} "
            f"has {raw.frame_bytes}"
        )

    def _note_damage(self) -> None:
        cut = self._cut_off_bytes()
        if not cut:
            super()._note_damage()
            return
        hint = "" if self._raw is None else f" (is --raw {self._raw.width}x{self._raw.height} right?)"
        whole = frame_bytes(self.info.pixel_format, self.info.width, self.info.height)
        self.notes.append(f"the last frame was cut off after {cut} of {whole} bytes: left out{hint}")

    def _cut_off_bytes(self) -> int:
        """Return how many bytes of an incomplete frame the pipe ended with."""
        if self._max_frames is not None:
            return 0
        before, each = 0, 0
        header = _Y4M_HEADER.match(self._pipe.head)
        if self._raw is None:
            # Frame headers with parameters have varying lengths: the number cannot be derived.
            if header is None or not self._pipe.head.startswith(_Y4M_FRAME_HEADER, header.end()):
                return 0
            before, each = header.end(), len(_Y4M_FRAME_HEADER)
        each += frame_bytes(self.info.pixel_format, self.info.width, self.info.height)
        return (self._pipe.count - before) % each


class RawWriter(FrameWriter):
    """A writer of uncompressed frames to a pipe, as Y4M or without a header.

    Neither stores times: a reader assumes frames at the constant rate `VideoInfo.frame_rate`.

    Args:
        pipe: the pipe.
        video: what is to be written; its encoding is not used.
        pixel_format: pixel format of headerless frames; None for Y4M, which is yuv420p.
    """

    def __init__(self, pipe: PipeOutput, video: OutputVideo, *, pixel_format: str | None = None) -> None:
        self.notes: list[str] = []
        self._pipe = pipe
        self._info = info = video.info
        self._orientation = info.orientation
        self.size: tuple[int, int] = self._orientation.size(video.width, video.height)
        self._is_y4m = pixel_format is None
        self._written = 0
        stored = pixel_format or "yuv420p"
        is_rgb = bool(VideoFormat(stored).is_rgb)
        color = replace(info.color, matrix=MATRIX_RGB, full_range=True) if is_rgb else info.color
        self._to_frame = RgbEncoder(color, pixel_format=stored)
        # Players guess the matrix by the size.
        written = _MATRIX_NAMES.get(info.color.matrix, f"matrix {info.color.matrix}")
        guessed = _MATRIX_NAMES[guess_matrix(*self.size)]
        if not is_rgb and written != guessed:
            self.notes.append(
                f"this format cannot store that the colours are {written}; players assume {guessed} for this size "
                "(--output-format matroska stores it)"
            )

    def write(self, frame: Frame) -> None:
        """Write a frame: height x width x 3 uint8 RGB.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
        """
        if self._is_y4m:
            self._pipe.write(_Y4M_FRAME_HEADER if self._written else self._header() + _Y4M_FRAME_HEADER)
        image = self._to_frame(np.ascontiguousarray(self._orientation.apply(frame.rgb)))
        self._pipe.write(memoryview(_packed(image)))
        self._written += 1

    def stop(self) -> None:
        """Stop waiting for the reader."""
        self._pipe.stop()

    def finish(self) -> Path:
        """Close the pipe: the output is complete after each frame."""
        self._pipe.close()
        return PIPE

    def finish_partial(self) -> Path | None:
        """Close the pipe; return None if nothing was written."""
        self._pipe.close()
        return PIPE if self._written else None

    def abort(self) -> None:
        """Close the pipe."""
        self._pipe.close()

    def _header(self) -> bytes:
        (width, height), info = self.size, self._info
        rate = info.rate.limit_denominator(1001)
        aspect = info.sample_aspect_ratio or Fraction(0)
        if self._orientation.transposed and aspect:
            aspect = 1 / aspect
        shape = f"{aspect.numerator}:{aspect.denominator if aspect else 0}"
        # The conversion places chroma in the middle of its four pixels.
        color = f"C420jpeg XYSCSS=420JPEG XCOLORRANGE={'FULL' if info.color.full_range else 'LIMITED'}"
        return f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A{shape} {color}\n".encode()
