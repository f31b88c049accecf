"""Video in: RGB frames with their own timestamps, and what the writer needs to keep about the file."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.color import MATRIX_UNSPECIFIED, RANGE_FULL, ColorTags, RgbDecoder, resolve
from overnet.runtime.video_source import (
    UNSCALED_DISPLAY,
    TimestampRepair,
    codec_name,
    main_stream,
    open_source,
    origin_seconds,
    read_packets,
)

MAX_SIDE_PX = 16384
# Seeking lands at or before the wanted time only as far as the file's index is right: step back until it does.
_SEEK_BACK_SECONDS = (0, 2, 20)
# Times on a command line are rounded; a frame that begins this much before the start still counts as at the start.
_START_TOLERANCE = Fraction(1, 2000)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is decoded.

    Parameters
    ----------
    width, height : size in pixels as stored: a rotation is not applied.
    frame_rate : average, in frames per second, such as 30000/1001; None if unknown.
    time_base : seconds per tick of every ``Frame.pts``.
    frame_count : frames in the whole file, stated or estimated from the duration; None if unknown.
    duration_seconds : of the whole file.
    rotation_degrees : counter-clockwise rotation a player applies, -180 to 180.
    sample_aspect_ratio : width of a pixel over its height; None if the file does not say.
    bit_depth : bits per component as stored; frames are delivered in 8.
    pixel_format, codec, container : FFmpeg's names.
    color : how the samples are converted; an unspecified matrix is guessed as players do.
    color_as_tagged : what the file says, 2 where it says nothing.
    display_matrix : the nine integers of FFmpeg's display matrix, where it is not the identity.
    origin_seconds : the time that counts as 0 in formats whose clock starts anywhere (MPEG-TS); else 0.
    max_frames : how many frames were asked for; None if all.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    time_base: Fraction
    frame_count: int | None
    duration_seconds: float | None
    rotation_degrees: int
    sample_aspect_ratio: Fraction | None
    bit_depth: int
    pixel_format: str
    codec: str
    container: str
    color: ColorTags
    color_as_tagged: ColorTags
    display_matrix: tuple[int, ...] | None = None
    origin_seconds: Fraction = field(default=Fraction(0))
    max_frames: int | None = None


@dataclass
class Frame:
    """One picture and when it is shown.

    Parameters
    ----------
    rgb : H x W x 3 uint8, C-contiguous.
    pts : presentation time in ticks of ``time_base``, strictly increasing over a video.
    time_base : seconds per tick.
    duration : in ticks of ``time_base``, at least 1.
    """

    rgb: np.ndarray
    pts: int
    time_base: Fraction
    duration: int


class VideoReader:
    """Decodes the main video stream of a file, in presentation order; a context manager.

    What cannot be decoded is skipped and counted in ``notes``, which grow while frames are read.

    Parameters
    ----------
    path : a local file in any format FFmpeg reads.
    start_seconds : where to begin; the first frame at or after this time comes first.
    max_frames : where to stop; None reads to the end.

    Attributes
    ----------
    info : what is known of the video.
    notes : one-line remarks for the user.
    expected_frames : how many frames will come, for a progress bar; an estimate, None if unknown.

    Raises
    ------
    InputError : the file is missing, empty, not a video, has no picture that can be decoded, or ends before
        ``start_seconds``.
    """

    def __init__(self, path: str | Path, *, start_seconds: float = 0.0, max_frames: int | None = None) -> None:
        if not start_seconds >= 0 or math.isinf(start_seconds):
            raise InputError(f"the start must be 0 seconds or later, not {start_seconds:g}")
        if max_frames is not None and max_frames < 1:
            raise InputError(f"the number of frames must be 1 or more, not {max_frames}")
        self.notes: list[str] = []
        self._path = Path(path)
        self._lock = threading.Lock()
        self._max_frames = max_frames
        self._damaged_packets = 0
        self._closed = False
        self._container: InputContainer = open_source(self._path)
        try:
            self._stream = main_stream(self._container, self._path)
            self._stream.thread_type = "AUTO"
            if self._stream.time_base is None:
                raise InputError(f"{self._path}: the video stream has no clock")
            # From PyAV 19 on, its times are of a type of its own.
            self._time_base = Fraction(self._stream.time_base)
            self._origin = origin_seconds(self._container)
            self._start = self._origin + Fraction(str(start_seconds)) - _START_TOLERANCE if start_seconds else None
            self._first, self._frames = self._first_frame(start_seconds)
            self.info: VideoInfo = self._describe(self._first)
            self._to_rgb = RgbDecoder(
                self.info.color,
                width=self.info.width,
                height=self.info.height,
                is_limited_grey=_is_grey(self._first) and not self.info.color_as_tagged.full_range,
            )
            self.expected_frames: int | None = self._expected(start_seconds)
            self._remark(self._first)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a running iteration ends after its current frame."""
        with self._lock:
            self._closed = True
            self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once."""
        return self.frames()

    def frames(self, buffer: Callable[[], np.ndarray | None] = lambda: None) -> Iterator[Frame]:
        """Yield the frames, once.

        Parameters
        ----------
        buffer : gives for each frame the H x W x 3 uint8 array to decode it to, or None for a new one. It may wait, and
            is not called while the file is locked, so that `close` works meanwhile.
        """
        one_frame = max(1, round(1 / (self.info.frame_rate or 25) / self._time_base))
        repair = TimestampRepair(self._time_base)
        count = 0
        next_pts = 0
        while self._max_frames is None or count < self._max_frames:
            with self._lock:
                decoded = None if self._closed else next(self._frames, None)
            if decoded is None:
                break
            out = buffer()
            with self._lock:
                stated = decoded.pts if decoded.pts is not None else decoded.dts
                duration = int(getattr(decoded, "duration", 0) or 0) or one_frame
                pts = repair(next_pts if stated is None else stated, duration)
                rgb = self._to_rgb(decoded, out)
            next_pts = pts + duration
            count += 1
            yield Frame(rgb=rgb, pts=pts, time_base=self._time_base, duration=duration)
        if repair.repaired:
            self.notes.append(f"{repair.repaired} frame times ran backwards or stood still and were moved forward")
        if self._damaged_packets:
            self.notes.append(f"{self._damaged_packets} damaged packets of the video could not be decoded")
        if not self._closed and count != self._max_frames:
            self._note_early_end(next_pts * self._time_base)

    def _first_frame(self, start_seconds: float) -> tuple[VideoFrame, Iterator[VideoFrame]]:
        """Decode up to the first wanted frame; the iterator begins with that frame."""
        for back in _SEEK_BACK_SECONDS if self._start is not None else ():
            if back >= start_seconds or not self._seek(back):
                break
            earlier, frame, frames = self._skip_to_start()
            # Landed after the start: unless an earlier landing has nothing between, the start would be missed.
            if earlier and frame is not None:
                self._damaged_packets = 0
                return frame, _chain(frame, frames)
        if self._start is not None:
            self._rewind()
        earlier, frame, frames = self._skip_to_start()
        if frame is not None:
            return frame, _chain(frame, frames)
        if earlier:
            raise InputError(f"{self._path} ends before the start asked for, {start_seconds:g} seconds")
        raise InputError(f"{self._path}: no picture in it can be decoded: it is damaged or cut off")

    def _skip_to_start(self) -> tuple[bool, VideoFrame | None, Iterator[VideoFrame]]:
        """Return whether frames came before the start, the first frame from there on, and the frames after it."""
        earlier = False
        frames = self._decode()
        for frame in frames:
            at = frame.pts if frame.pts is not None else frame.dts
            if self._start is None or at is None or at * self._time_base >= self._start:
                return earlier, frame, frames
            earlier = True
        return earlier, None, frames

    def _seek(self, back_seconds: int) -> bool:
        """Go to the keyframe at or before so many seconds before the start; tell whether the format can."""
        target = max(self._origin, (self._start or 0) - back_seconds)
        try:
            self._container.seek(int(target / self._time_base), stream=self._stream)
        except av.FFmpegError:
            return False
        return True

    def _rewind(self) -> None:
        # Opened anew: to seek to the beginning is the one thing formats without an index get wrong.
        self._container.close()
        self._container = open_source(self._path)
        self._stream = main_stream(self._container, self._path)
        self._stream.thread_type = "AUTO"

    def _decode(self) -> Iterator[VideoFrame]:
        for packet in read_packets(self._container, [self._stream]):
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: av.Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, av.error.BlockingIOError):
                # Frames of an earlier, failed call are stuck in the decoder; without this no packet gets in again.
                self._stream.codec_context.flush_buffers()
            if packet is not None:
                self._damaged_packets += 1
            return []

    def _describe(self, frame: VideoFrame) -> VideoInfo:
        stream, codec = self._stream, self._stream.codec_context
        width, height = frame.width, frame.height
        if max(width, height) > MAX_SIDE_PX or min(width, height) < 1:
            raise InputError(f"{self._path} is {width}x{height}: sides of 1 to {MAX_SIDE_PX} pixels are supported")
        color_range = int(frame.color_range) or int(codec.color_range)
        matrix = int(frame.colorspace)
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        # Formats that are full range by their name, to swscale as well, whatever the tag says.
        is_full_format = is_rgb or frame.format.name.startswith("yuvj")
        tagged = ColorTags(
            matrix=matrix if matrix != MATRIX_UNSPECIFIED else int(codec.colorspace),
            primaries=int(codec.color_primaries),
            transfer=int(codec.color_trc),
            full_range=color_range == RANGE_FULL or is_full_format or (_is_grey(frame) and not color_range),
        )
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        duration = self._duration()
        counted = stream.frames or (round(duration * rate) if duration and rate else 0)
        display, rotation = _display(frame)
        ratio = stream.sample_aspect_ratio
        return VideoInfo(
            width=width,
            height=height,
            frame_rate=Fraction(rate) if rate else None,
            time_base=self._time_base,
            frame_count=counted or None,
            duration_seconds=None if duration is None else float(duration),
            rotation_degrees=rotation,
            sample_aspect_ratio=Fraction(ratio) if ratio else None,
            bit_depth=max(component.bits for component in frame.format.components),
            pixel_format=frame.format.name,
            codec=codec_name(stream),
            container=self._container.format.name,
            color=resolve(tagged, width=width, height=height, has_matrix=not (is_rgb or _is_grey(frame))),
            color_as_tagged=tagged,
            display_matrix=display,
            origin_seconds=self._origin,
            max_frames=self._max_frames,
        )

    def _duration(self) -> Fraction | None:
        if self._stream.duration:
            return self._stream.duration * self._time_base
        return Fraction(self._container.duration, av.time_base) if self._container.duration else None

    def _expected(self, start_seconds: float) -> int | None:
        remaining = self.info.frame_count
        if remaining is not None and start_seconds:
            remaining = max(1, remaining - round(start_seconds * (self.info.frame_rate or 0)))
        known = [count for count in (remaining, self._max_frames) if count is not None]
        return min(known, default=None)

    def _remark(self, frame: VideoFrame) -> None:
        """Say what of the input cannot be kept."""
        info = self.info
        if info.color.is_hdr:
            self.notes.append("HDR video is upscaled and encoded as 8 bit; its colour tags are kept")
        elif info.bit_depth > 8:
            self.notes.append(f"{info.bit_depth}-bit input is read and encoded as 8 bit")
        if not info.color.matrix_is_known:
            self.notes.append(f"colour matrix {info.color.matrix} is converted as if it were BT.709")
        if frame.interlaced_frame:
            self.notes.append("interlaced video is upscaled as if it were progressive: deinterlace it first")
        if len(frame.format.components) in (2, 4):
            self.notes.append("transparency is dropped")

    def _note_early_end(self, end: Fraction) -> None:
        duration = self._duration()
        if duration is None:
            return
        begin = (self._stream.start_time or 0) * self._time_base
        # A stream's own duration is exact; a container's covers the longest stream.
        slack = 3 / (self.info.frame_rate or 25) if self._stream.duration else Fraction(1)
        if begin + duration - end > slack:
            stated = float(begin + duration)
            self.notes.append(f"the video ends at {float(end):.2f} s, although the file promises {stated:.2f} s")


def _chain(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest


def _is_grey(frame: VideoFrame) -> bool:
    return len(frame.format.components) <= 2 and not frame.format.has_palette


def _display(frame: VideoFrame) -> tuple[tuple[int, ...] | None, int]:
    """Read the display matrix of a frame and the counter-clockwise rotation in it, in degrees."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None, 0
    matrix = struct.unpack("=9i", bytes(data))
    if (matrix[0], matrix[1], matrix[3], matrix[4]) == UNSCALED_DISPLAY:
        return None, 0
    return matrix, round(-math.degrees(math.atan2(matrix[1], matrix[0])))
