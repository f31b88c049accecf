"""A frame of video, information on a video, and the base of all writers of frames."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.container.demux import UNSCALED_DISPLAY, codec_name, origin_seconds
from overnet.runtime.video.color import MATRIX_UNSPECIFIED, RANGE_FULL, ColorTags, RgbDecoder, resolve

MAX_SIDE_PX = 16384

# Frames per second; cameras are slower, and a clock with more ticks is no rate.
_FASTEST_RATE = 1000


@dataclass(frozen=True)
class Orientation:
    """A change of pixels to how they are shown.

    Args:
        transposed: whether rows become columns, first.
        row_step, column_step: -1 reverses the order of rows or columns, 1 keeps it.
    """

    transposed: bool
    row_step: int
    column_step: int

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """Return a view of an image, H x W x 3, as it is shown."""
        turned = rgb.transpose(1, 0, 2) if self.transposed else rgb
        return turned[:: self.row_step, :: self.column_step]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height as they are shown."""
        return (height, width) if self.transposed else (width, height)


UPRIGHT = Orientation(False, 1, 1)


@dataclass(frozen=True)
class VideoInfo:
    """Information on a video.

    Args:
        width, height: size in pixels as stored, without a rotation.
        frame_rate: average, in frames per second, such as 30000/1001; None if unknown.
        time_base: seconds per tick of every ``Frame.pts``.
        finest_rate: the lowest rate, in frames per second, on whose grid the first frame times lie; None if unknown.
        bit_depth: bits per component as stored; frames are decoded to 8.
        pixel_format, codec: FFmpeg's names.
        color: the tags for conversion; an unspecified matrix is guessed as players do.
        color_as_tagged: the tags of the file, 2 where it has none.
        frame_count: frames in the whole file, as stated or estimated from the duration; None if unknown.
        sample_aspect_ratio: width of a pixel over its height; None if the file does not state it.
        display_matrix: the nine integers of FFmpeg's display matrix; None for the identity.
        origin_seconds: the time that counts as 0 in formats whose clock starts at any value (MPEG-TS); otherwise 0.
        max_frames: number of frames requested; None for all.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    time_base: Fraction
    bit_depth: int
    pixel_format: str
    codec: str
    color: ColorTags
    color_as_tagged: ColorTags
    frame_count: int | None = None
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    origin_seconds: Fraction = Fraction(0)
    max_frames: int | None = None
    finest_rate: Fraction | None = None

    @property
    def rate(self) -> Fraction:
        """Return the frame rate in frames per second, or FFmpeg's default of 25 where it is unknown."""
        return self.frame_rate or Fraction(25)

    @property
    def orientation(self) -> Orientation:
        """Return how pixels are turned and mirrored to be shown; the identity for angles between quarter turns."""
        if self.display_matrix is None:
            return UPRIGHT
        a, b, _, c, d = (int(np.sign(term)) for term in self.display_matrix[:5])
        if a and d and not (b or c):
            return Orientation(False, d, a)
        if b and c and not (a or d):
            return Orientation(True, b, c)
        return UPRIGHT

    def rgb_decoder(self) -> RgbDecoder:
        """Return a decoder to RGB for the frames of this video."""
        is_limited_grey = is_grey(VideoFormat(self.pixel_format)) and not self.color_as_tagged.full_range
        return RgbDecoder(self.color, width=self.width, height=self.height, is_limited_grey=is_limited_grey)


@dataclass(frozen=True)
class Position:
    """The place of a frame in a file, behind which reading can begin.

    Args:
        index: number of the frame in what is read.
        pts, duration: see `Frame`; the time is as stated in the file.
    """

    index: int
    pts: int
    duration: int


@dataclass
class Frame:
    """An image and the time at which it is shown.

    Args:
        rgb: H x W x 3 uint8 RGB, C-contiguous.
        pts: presentation time in ticks of ``time_base``, strictly increasing over a video.
        time_base: seconds per tick.
        duration: duration in ticks of ``time_base``, at least 1.
        index: number of the frame in what is read, counted from 0.
        is_as_stated: whether no time of the file had to be repaired up to here, so that `pts` is found in the file.
    """

    rgb: np.ndarray
    pts: int
    time_base: Fraction
    duration: int
    index: int = 0
    is_as_stated: bool = False


class FrameWriter(ABC):
    """Base of everything that upscaled frames are written to; a context manager that discards an unfinished output.

    Attributes:
        notes: one-line remarks for the user.
        size: width and height as written, in pixels; None if the frames are written as they are.
        can_stall: whether a write, and `finish`, may wait for another machine or program for ever.
        earlier_frames: number of frames in the output that an earlier run has written.
        is_complete: whether it has written all of them.
        resumes_after: the last frame before the first one that is wanted; None from the beginning, or if unknown.
    """

    notes: list[str]
    size: tuple[int, int] | None = None
    can_stall: bool = False
    earlier_frames: int = 0
    is_complete: bool = False
    resumes_after: Position | None = None

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Write an upscaled frame, H x W x 3 uint8; frames are written in their order."""

    @abstractmethod
    def finish(self) -> Path:
        """Complete the output and return where it is."""

    def finish_partial(self) -> Path | None:
        """Complete the output of a run that was stopped, and return where it is; None if nothing was written."""
        return self.finish()

    @abstractmethod
    def abort(self) -> None:
        """Release the output, and remove it unless it is finished."""

    def has(self, index: int) -> bool:
        """Return whether an earlier run has written the frame of this number, which then is not to be written."""
        return False

    def begins_segment(self, index: int) -> bool:
        """Return whether the frame of this number must not depend on the frames before it."""
        return False

    def stop(self) -> None:  # noqa: B027
        """Stop waiting for a reader that does not read."""


Writer = TypeVar("Writer", bound=FrameWriter)


def describe_video(
    container: InputContainer, stream: VideoStream, frame: VideoFrame, name: str, *, max_frames: int | None = None
) -> VideoInfo:
    """Return the information on a video.

    Args:
        container: the open file or stream.
        stream: its video stream.
        frame: the first frame that was decoded.
        name: its name in messages.
        max_frames: number of frames requested; None for all.

    Raises:
        InputError: the size is out of range.
    """
    codec = stream.codec_context
    width, height = frame.width, frame.height
    check_size(width, height, name)
    color_range = int(frame.color_range) or int(codec.color_range)
    matrix = int(frame.colorspace)
    is_rgb = frame.format.is_rgb or frame.format.has_palette
    # These pixel formats are full range by definition, for swscale as well, whatever the tag is.
    is_full_format = is_rgb or frame.format.name.startswith("yuvj")
    tagged = ColorTags(
        matrix=matrix if matrix != MATRIX_UNSPECIFIED else int(codec.colorspace),
        primaries=int(codec.color_primaries),
        transfer=int(codec.color_trc),
        full_range=color_range == RANGE_FULL or is_full_format or (is_grey(frame.format) and not color_range),
    )
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if rate and rate > _FASTEST_RATE and stream.guessed_rate:
        # The ticks of the codec's clock, which FFmpeg takes for frames where the container states no rate.
        rate = min(rate, stream.guessed_rate)
    duration = duration_seconds(container, stream)
    counted = stream.frames or (round(duration * rate) if duration and rate else 0)
    ratio = stream.sample_aspect_ratio
    # PyAV 19 has a fraction type of its own.
    time_base = Fraction(stream.time_base or Fraction(1, 90_000))
    return VideoInfo(
        width=width,
        height=height,
        frame_rate=Fraction(rate) if rate else None,
        time_base=time_base,
        frame_count=counted or None,
        sample_aspect_ratio=Fraction(ratio) if ratio else None,
        bit_depth=max(component.bits for component in frame.format.components),
        pixel_format=frame.format.name,
        codec=codec_name(stream),
        color=resolve(tagged, width=width, height=height, has_matrix=not (is_rgb or is_grey(frame.format))),
        color_as_tagged=tagged,
        display_matrix=_display(frame),
        origin_seconds=origin_seconds(container),
        max_frames=max_frames,
        finest_rate=Fraction(stream.base_rate) if stream.base_rate else None,
    )


def check_size(width: int, height: int, name: str) -> None:
    """Check the size of a video in pixels.

    Raises:
        InputError: a side is out of range.
    """
    if max(width, height) > MAX_SIDE_PX or min(width, height) < 1:
        raise InputError(f"{name} is {width}x{height}: sides of 1 to {MAX_SIDE_PX} pixels are supported")


def duration_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the duration of a video stream, or of its container; None if neither is known."""
    if stream.duration and stream.time_base:
        return stream.duration * Fraction(stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None


def is_grey(pixel_format: VideoFormat) -> bool:
    """Tell whether a pixel format has no colour: grey, with or without transparency."""
    return len(pixel_format.components) <= 2 and not pixel_format.has_palette


def _display(frame: VideoFrame) -> tuple[int, ...] | None:
    """Return a frame's display matrix; None for the identity."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = struct.unpack("=9i", bytes(data))
    return None if (matrix[0], matrix[1], matrix[3], matrix[4]) == UNSCALED_DISPLAY else matrix
