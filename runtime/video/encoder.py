"""The video stream of an output, encoded with the source's times, colour, pixel shape and orientation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from overnet.errors import OutputError
from overnet.runtime.video.color import MATRIX_RGB, RANGE_FULL, RANGE_LIMITED, RgbEncoder
from overnet.runtime.video.formats import (
    DEFAULT_ENCODING,
    Encoding,
    OutputFormat,
    choose_pixel_format,
    continuing,
    find_encoder,
    moves_frames,
    open_failure,
    quality_options,
)
from overnet.runtime.video.frame import UPRIGHT, Frame, VideoInfo
from overnet.runtime.video.frame_times import FrameTimes
from overnet.system.scheduling import scheduling_kept

# H.264 stores the two sides of a pixel in 16 bits each.
_MAX_ASPECT_TERM = 65535
# Rates above this are those of clocks, and not of frames.
_FASTEST_GRID = 120
# Apple's players want the parameters of HEVC in the header only, which this tag says.
_HEVC_TAG = "hvc1"


@dataclass(frozen=True)
class OutputVideo:
    """The video that a writer is to write.

    Args:
        info: information on the source.
        width, height: size in pixels of the frames that will be written.
        encoding: settings of the encoder.
    """

    info: VideoInfo
    width: int
    height: int
    encoding: Encoding = DEFAULT_ENCODING


@dataclass(frozen=True)
class EncodedPacket:
    """An encoded image, in the order of decoding; times are in ticks of its `VideoTrack`, from the output's start.

    Args:
        data: the packet's bytes.
        pts: presentation time.
        dts: decoding time; None where the encoder states none.
        duration: at least 1.
        is_keyframe: whether decoding can begin here.
    """

    data: bytes
    pts: int
    dts: int | None
    duration: int
    is_keyframe: bool


class VideoTrack:
    """An encoder of frames into a stream of an output.

    Args:
        output: the output; its header must not be written yet.
        container: its format.
        video: what is to be encoded.
        continues: whether the frames follow others, which another track encodes.

    Attributes:
        stream: the stream of the output.
        time_base: seconds per tick of all times in ticks here.
        size: width and height of the images in the stream, in pixels.
        end_ticks: end of the last frame, by the source's clock.
        last_pts: time of the last frame, in ticks from the output's start.
        moved: number of frames that were moved to keep them apart.
        written: number of frames so far.
        notes: one-line remarks for the user.

    Raises:
        OutputError: there is no such encoder, it does not support the size, or the container cannot hold its video.
    """

    def __init__(
        self, output: OutputContainer, container: OutputFormat, video: OutputVideo, *, continues: bool = False
    ) -> None:
        self.notes: list[str] = []
        self.end_ticks = self.last_pts = 0
        self.written = self.moved = 0
        self._container = container
        self._info = video.info
        self._size = (video.width, video.height)
        self._shift_ticks = 0
        self._durations: dict[int, int] = {}
        self._last_image: VideoFrame | None = None
        self._filled_ticks = 0
        self._is_rounded = False
        self._keeps_rotation = container.keeps_rotation and hasattr(VideoStream, "set_display_matrix")
        # Pixels are turned and mirrored where a tag cannot say it.
        self._orientation = UPRIGHT if self._keeps_rotation else video.info.orientation
        self.size = self._orientation.size(*self._size)
        encoder = find_encoder(video.encoding, container)
        self._encoder = encoder.name
        self._pixel_format = choose_pixel_format(encoder, width=video.width, height=video.height)
        self.time_base = self._choose_clock()
        self._times = FrameTimes(self.time_base, Fraction(0))
        self.stream = self._add(output, video.encoding, continues=continues)
        self.stream.codec_context.thread_count = video.encoding.threads
        # PyAV's default makes x264 divide every image into slices, which costs quality.
        self.stream.codec_context.thread_type = "AUTO"
        try:
            with scheduling_kept():
                self.stream.codec_context.open()
        except (av.FFmpegError, ValueError) as error:
            raise open_failure(self._encoder, error, self.size) from error

    def begin(
        self, first_seconds: Fraction, *, shift_seconds: Fraction | None, next_pts: int | None = None
    ) -> Fraction:
        """Set which time of the source becomes 0, and return it.

        Args:
            first_seconds: time of the first frame.
            shift_seconds: the time that becomes 0; None takes that of the first frame.
            next_pts: see `FrameTimes`.
        """
        self._shift_ticks = round((first_seconds if shift_seconds is None else shift_seconds) / self.time_base)
        zero_seconds = self._shift_ticks * self.time_base
        self._times = FrameTimes(self.time_base, zero_seconds, next_pts)
        self._filled_ticks = next_pts or 0
        return zero_seconds

    def whole_intervals(self, least: int) -> int:
        """Return the smallest number of frames from `least` on that is a multiple of the interval of keyframes."""
        interval = self.stream.codec_context.gop_size
        return least if interval < 1 else -(-least // interval) * interval

    @property
    def end_seconds(self) -> Fraction:
        """Return the end of the last frame by the source's clock."""
        return self.end_ticks * self.time_base

    def encode(self, frame: Frame | None, *, is_key: bool = False) -> Iterator[tuple[av.Packet[Any], Fraction | None]]:
        """Encode a frame, or flush the encoder with None.

        Args:
            frame: the frame.
            is_key: whether it is made a keyframe that begins a closed group of pictures, if the encoder can do so.

        Yields:
            The packets to be written, each with its decoding time in seconds by the source's clock.

        Raises:
            ValueError: the frame is not height x width x 3 uint8.
        """
        yield from self._timed(self._encoded(frame, is_key=is_key))
        if frame is None and self.moved:
            self.notes.append(f"{self.moved} frame times were moved to keep them apart")

    def flush(self, *, before: int) -> Iterator[tuple[av.Packet[Any], Fraction | None]]:
        """Yield, as `encode` does, the remaining packets of frames before a keyframe's time in ticks from the start.

        No other packet is encoded, and none can be afterwards.
        """
        # Without a stream: a container cannot take these packets as they are.
        lazily = self.stream.codec_context.encode_lazy(None)
        yield from self._timed(itertools.takewhile(lambda packet: packet.pts is None or packet.pts < before, lazily))

    def _timed(self, packets: Iterable[av.Packet[Any]]) -> Iterator[tuple[av.Packet[Any], Fraction | None]]:
        for packet in packets:
            # Not every encoder keeps durations, and the last frame's cannot be derived from the next one.
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, 1)
            reached = packet.dts if packet.dts is not None else packet.pts
            yield packet, None if reached is None else (reached + self._shift_ticks) * self.time_base

    def adopt(self, encoded: EncodedPacket) -> tuple[av.Packet[Any], Fraction | None]:
        """Return a packet that another track with the same settings has encoded, as `encode` yields it."""
        packet: av.Packet[Any] = av.Packet(encoded.data)
        packet.stream, packet.time_base = self.stream, self.time_base
        packet.pts, packet.dts, packet.duration = encoded.pts, encoded.dts, encoded.duration
        packet.is_keyframe = encoded.is_keyframe
        self.written += 1
        self.end_ticks = max(self.end_ticks, encoded.pts + encoded.duration + self._shift_ticks)
        reached = encoded.pts if encoded.dts is None else encoded.dts
        return packet, (reached + self._shift_ticks) * self.time_base

    def _encoded(self, frame: Frame | None, *, is_key: bool) -> Iterator[av.Packet[Any]]:
        """Yield the packets of a frame; a constant rate is filled with repetitions of the image that is on screen."""
        image = None if frame is None else self._image(frame)
        if image is not None and is_key:
            image.pict_type = PictureType.I
        if self._container.has_constant_rate:
            until = self.end_ticks - self._shift_ticks if image is None else image.pts
            # Until the first image is due, it is shown as well.
            shown, self._last_image = self._last_image or image, image
            assert until is not None
            if shown is not None:
                for ticks in range(self._filled_ticks, until):
                    shown.pts = ticks
                    self._durations[ticks] = 1
                    yield from self.stream.encode(shown)
            self._filled_ticks = until + 1
            if image is not None:
                image.pts = until
        yield from self.stream.encode(image)

    def _image(self, frame: Frame) -> VideoFrame:
        width, height = self._size
        if frame.rgb.shape != (height, width, 3) or frame.rgb.dtype != np.uint8:
            raise ValueError(f"expected uint8 {height}x{width}x3, got {frame.rgb.dtype} {frame.rgb.shape}")
        pts, duration = self._times(frame.pts, frame.duration, frame.time_base)
        self.moved, self.last_pts = self._times.moved, pts
        image = self._to_frame(np.ascontiguousarray(self._orientation.apply(frame.rgb)))
        tick = self._container.tick
        if tick is not None and not self._is_rounded and (pts * self.time_base / tick).denominator != 1:
            self._is_rounded = True
            self.notes.append(f"{self._container.name} stores times in whole milliseconds: frame times are rounded")
        image.pts = pts
        image.time_base = self.time_base
        self._durations[pts] = duration
        self.end_ticks = pts + duration + self._shift_ticks
        self.written += 1
        return image

    def _choose_clock(self) -> Fraction:
        """Return the encoder's seconds per tick: the source's own where the output can store them."""
        name = self._container.name
        if moves_frames(self._encoder, self._container):
            # The rate whose grid is nearest to the frame times of the source.
            rate, finest = self._info.rate, self._info.finest_rate
            if finest is not None and rate < finest <= _FASTEST_GRID:
                rate = finest
            rate = rate.limit_denominator(1001)
            note = f"{self._encoder} in {name} stores a constant {float(rate):.5g} frames per second"
            is_slower = self._info.rate < rate * Fraction(99, 100)
            self.notes.append(f"{note}: frames that last longer are repeated" if is_slower else note)
            return 1 / rate
        return self._info.time_base

    def _add(self, output: OutputContainer, encoding: Encoding, *, continues: bool) -> VideoStream:
        info, pixel_format, encoder = self._info, self._pixel_format, self._encoder
        width, height = self.size
        quality = quality_options(encoder, encoding.crf, width=width, height=height, rate=info.rate)
        options = {**quality, **encoding.options}
        if continues:
            options = continuing(encoder, options)
        if self._container.has_constant_rate:
            # AVI has no presentation times, so frames can only be stored in the order in which they are shown.
            options["bf"] = "0"
        try:
            stream: Any = output.add_stream(encoder, rate=self._info.rate, options=options)
        except ValueError as error:
            name = self._container.name
            raise OutputError(f"{name} cannot hold video of {encoder}: choose another codec or suffix") from error
        is_rgb = "rgb" in pixel_format or "bgr" in pixel_format or pixel_format.startswith("gbr")
        tags = replace(
            info.color,
            matrix=MATRIX_RGB if is_rgb else info.color.matrix,
            full_range=info.color.full_range or is_rgb or pixel_format.startswith("yuvj"),
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        if self._container.name in ("mp4", "mov") and stream.codec_context.codec.canonical_name == "hevc":
            context.codec_tag = _HEVC_TAG
        context.time_base = stream.time_base = self.time_base
        context.colorspace, context.color_range = tags.matrix, RANGE_FULL if tags.full_range else RANGE_LIMITED
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        ratio = self._pixel_aspect()
        if ratio is not None:
            context.sample_aspect_ratio = ratio
            # Matroska stores it as well, but PyAV does not pass the ratio to its muxer: the codec's own field remains.
            in_codec = any(name in encoder for name in ("264", "265", "hevc", "mpeg"))
            if ratio != 1 and not (self._container.keeps_aspect or in_codec):
                shape = f"{ratio.numerator}:{ratio.denominator}"
                self.notes.append(
                    f"{encoder} in {self._container.name} cannot store pixels of {shape}: use h264 or .mp4"
                )
        if info.display_matrix is not None and self._orientation == UPRIGHT:
            if self._keeps_rotation:
                # The last row translates the rotated image back into view, in pixels of the upscaled size.
                *linear, right, down, last = info.display_matrix
                enlarged = Fraction(self._size[0], info.width)
                stream.set_display_matrix((*linear, round(right * enlarged), round(down * enlarged), last))
            else:
                name = self._container.name
                self.notes.append(f"the source's display matrix cannot be stored in {name}: dropped")
        if pixel_format == "yuv444p":
            self.notes.append(f"the odd size {width}x{height} is encoded as 4:4:4, which not every player shows")
        self._to_frame = RgbEncoder(tags, pixel_format=pixel_format)
        return stream  # type: ignore[no-any-return]

    def _pixel_aspect(self) -> Fraction | None:
        """Return the aspect ratio of an output pixel that keeps the shape of the image; None for the default."""
        info, (width, height) = self._info, self._size
        stretch = Fraction(info.width * height, info.height * width)
        # A difference of less than a pixel comes from rounding the size, not from stretching.
        if abs(stretch - 1) * max(width, height) < 1:
            stretch = Fraction(1)
        ratio = (info.sample_aspect_ratio or 1) * stretch
        if info.sample_aspect_ratio is None and ratio == 1:
            return None
        return (1 / ratio if self._orientation.transposed else ratio).limit_denominator(_MAX_ASPECT_TERM)
