"""Encoded silence that fits before the packets of a stream of sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

from overnet.runtime.container.demux import codec_name

_SAMPLES = 1024


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
            packets += encoder.encode(_silent_frame(encoder, samples, index * step))
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


def _silent_frame(encoder: Any, samples: int, pts: int) -> av.AudioFrame:
    frame = av.AudioFrame(encoder.format.name, encoder.layout.name, samples)
    level = 0x80 if encoder.format.name.startswith("u8") else 0
    for plane in frame.planes:
        plane.update(np.full(plane.buffer_size, level, np.uint8).tobytes())
    frame.sample_rate, frame.pts, frame.time_base = encoder.sample_rate, pts, Fraction(1, encoder.sample_rate)
    return frame
