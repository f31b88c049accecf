"""The speed of the usual encoder on this machine, measured on moving photographs."""

import time
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
from av.video.codeccontext import VideoCodecContext

from overnet.imaging.moving_photographs import frames
from overnet.runtime.video.formats import (
    DEFAULT_ENCODING,
    choose_pixel_format,
    find_encoder,
    output_format,
    quality_options,
)

# A small video is measured, and its time scaled to the size in hand: an encoder's time is proportional to the pixels.
_WIDTH, _HEIGHT, _FRAMES = 640, 360, 24
_RATE = Fraction(25)


def encoding_seconds(width: int, height: int) -> float:
    """Return how long all cores encode one frame of a size in pixels, by the encoder that is usual for MP4.

    It is measured at the first call of the process.

    Raises:
        OutputError: this FFmpeg has no encoder for MP4.
    """
    return _measured_seconds() * (width * height) / (_WIDTH * _HEIGHT)


@cache
def _measured_seconds() -> float:
    encoder = find_encoder(DEFAULT_ENCODING, output_format(Path("measured.mp4")))
    context: Any = VideoCodecContext.create(encoder, "w")
    context.width, context.height, context.time_base = _WIDTH, _HEIGHT, 1 / _RATE
    context.pix_fmt = choose_pixel_format(encoder, width=_WIDTH, height=_HEIGHT)
    context.options = quality_options(encoder.name, None, width=_WIDTH, height=_HEIGHT, rate=_RATE)
    context.thread_type = "AUTO"
    images = [
        av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=context.pix_fmt)
        for image in frames(_WIDTH, _HEIGHT, _FRAMES)
    ]
    began = time.perf_counter()
    for number, image in enumerate([*images, None]):
        if image is not None:
            image.pts = number
        context.encode(image)
    return (time.perf_counter() - began) / _FRAMES
