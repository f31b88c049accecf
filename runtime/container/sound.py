"""Encoding again of sound that an output cannot hold as it is (FLAC in Matroska, AAC in MP4), and of silence."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.container import OutputContainer

from overnet.runtime.container.demux import codec_name

# By container: the encoders for samples of at most 16 bits, or of lossy codecs, and for more.
_ENCODERS = {
    "matroska": ("flac", "flac"),
    "webm": ("libopus", "libopus"),
    "avi": ("pcm_s16le", "pcm_s24le"),
    "mp4": ("aac", "aac"),
    "mov": ("aac", "aac"),
}
_BITS_PER_CHANNEL = 96_000  # a second, of lossy encoders
_COMMON_RATE = 48_000
_SAMPLES = 1024  # of a packet of silence, where the codec has no frames
_SHORTEST_GAP_SECONDS, _LONGEST_GAP_SECONDS = Fraction(1, 50), 3600
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


class SoundEncoder:
    """A decoder and encoder of one stream of sound.

    Args:
        output: the output, whose header must not be written yet.
        container_name: the name of its container.
        source: the stream of sound.

    Attributes:
        stream: the output's stream.
        codec: the name of the encoder.

    Raises:
        ValueError: this FFmpeg cannot decode it, or has no encoder for it that the container holds.
    """

    def __init__(self, output: OutputContainer, container_name: str, source: Any) -> None:
        given = source.codec_context
        if container_name not in _ENCODERS or given is None or not given.format:
            raise ValueError("no encoder for this sound")
        is_deep = given.format.name.startswith(("s32", "s64", "dbl")) and not given.codec.name.startswith("wma")
        self.codec = _ENCODERS[container_name][is_deep]
        with av.open(io.BytesIO(), "w", format=container_name) as scratch:
            self._add(scratch, given, is_deep=is_deep)
            scratch.start_encoding()
        self.stream = self._add(output, given, is_deep=is_deep)
        encoder = self.stream.codec_context
        self._decoder = given
        self._tick = Fraction(1, encoder.sample_rate)
        self._resampler = av.AudioResampler(encoder.format.name, encoder.layout.name, encoder.sample_rate)
        self._has_no_times = container_name == "avi"
        self._next_sample: int | None = None

    def _add(self, output: OutputContainer, given: Any, *, is_deep: bool) -> Any:
        codec = av.codec.Codec(self.codec, "w")
        rates = codec.audio_rates
        rate = given.sample_rate if not rates or given.sample_rate in rates else _COMMON_RATE
        stream: Any = output.add_stream(self.codec, rate=rate)
        encoder = stream.codec_context
        # Some files state the number of channels only, and encoders want their places.
        count = given.layout.nb_channels
        encoder.layout = (
            _LAYOUTS.get(count, given.layout.name) if "channels" in given.layout.name else given.layout.name
        )
        formats = [audio_format.name for audio_format in codec.audio_formats or []]
        encoder.format = "s32" if is_deep and "s32" in formats else formats[0]
        encoder.time_base = stream.time_base = Fraction(1, rate)
        if self.codec in ("aac", "libopus"):
            encoder.bit_rate = _BITS_PER_CHANNEL * count
        encoder.open()
        return stream

    def encode(
        self, packet: av.Packet[Any], *, shift: Fraction, start: Fraction | None, end: Fraction | None
    ) -> Iterator[av.Packet[Any]]:
        """Decode a packet and yield the packets that the encoder makes of it.

        Args:
            packet: a packet of the source.
            shift: subtracted from all times, in seconds.
            start, end: the part to keep, in seconds by the source's clock; None for all.

        Raises:
            av.FFmpegError: the packet is damaged.
        """
        yield from self._encoded(packet.decode(), shift, start, end)

    def flush(self, *, shift: Fraction, start: Fraction | None, end: Fraction | None) -> Iterator[av.Packet[Any]]:
        """Yield the packets of what decoder and encoder still hold; see `encode`."""
        with contextlib.suppress(av.FFmpegError):
            yield from self._encoded(self._decoder.decode(None), shift, start, end)
        for made in self._resampler.resample(None):
            yield from self._placed(made)
        yield from self.stream.encode(None)

    def _encoded(
        self, frames: list[Any], shift: Fraction, start: Fraction | None, end: Fraction | None
    ) -> Iterator[av.Packet[Any]]:
        for frame in frames:
            at = None if frame.pts is None else frame.pts * frame.time_base
            if at is not None and ((start is not None and at < start) or (end is not None and at >= end)):
                continue
            for made in self._resampler.resample(frame):
                if at is not None:
                    yield from self._fill(round((at - shift) / self._tick), made)
                yield from self._placed(made)

    def _fill(self, wanted: int, like: av.AudioFrame) -> Iterator[av.Packet[Any]]:
        """Set the sample number of what comes next, with silence where a gap or a container without times needs it."""
        if self._next_sample is None:
            self._next_sample = 0 if self._has_no_times else wanted
        gap = wanted - self._next_sample
        # Times are rounded to milliseconds; and what is longer than a film is no gap, but a damaged time.
        if not _SHORTEST_GAP_SECONDS < gap * self._tick < _LONGEST_GAP_SECONDS:
            return
        for first in range(0, gap, _COMMON_RATE):
            yield from self._placed(_silent_frame(like, min(_COMMON_RATE, gap - first)))

    def _placed(self, frame: av.AudioFrame) -> Iterator[av.Packet[Any]]:
        frame.pts, frame.time_base = self._next_sample or 0, self._tick
        self._next_sample = frame.pts + frame.samples
        yield from self.stream.encode(frame)


def silence(stream: Any, seconds: Fraction) -> list[av.Packet[Any]]:
    """Return packets of silence of a duration, in the codec and layout of a stream, from time 0 on.

    Codecs with frames give the nearest number of whole ones. The list is empty where this FFmpeg has no such encoder or
    the stream's decoder would need other parameters for them.
    """
    given = stream.codec_context
    rate = given.sample_rate
    try:
        encoder: Any = AudioCodecContext.create(codec_name(stream), "w")
        encoder.sample_rate, encoder.layout = rate, given.layout
        encoder.format = encoder.codec.audio_formats[0]
        encoder.time_base = Fraction(1, rate)
        if given.bit_rate:
            encoder.bit_rate = given.bit_rate
        encoder.open()
        count = round(seconds * rate)
        step = encoder.frame_size or _SAMPLES
        whole = round(Fraction(count, step)) if encoder.frame_size else -(-count // step)
        packets: list[av.Packet[Any]] = []
        for index in range(whole):
            samples = step if encoder.frame_size else min(step, count - index * step)
            frame = _silent_frame(encoder, samples)
            frame.pts, frame.time_base = index * step, Fraction(1, rate)
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
    except (av.FFmpegError, ValueError, TypeError, IndexError):
        return []
    if given.extradata and encoder.extradata and given.extradata != encoder.extradata:
        return []
    # Encoders add packets at the end for what they look ahead.
    del packets[whole:]
    for index, packet in enumerate(packets):
        packet.time_base = Fraction(1, rate)
        packet.pts = packet.dts = index * step
    return packets


def _silent_frame(like: Any, samples: int) -> av.AudioFrame:
    """Return a frame of silence in the format, layout and rate of an encoder or another frame."""
    frame = av.AudioFrame(like.format.name, like.layout.name, samples)
    level = 0x80 if like.format.name.startswith("u8") else 0
    for plane in frame.planes:
        plane.update(np.full(plane.buffer_size, level, np.uint8).tobytes())
    frame.sample_rate = like.sample_rate
    return frame
