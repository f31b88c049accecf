"""Comparison of frames by a few figures: whether the channel means of one frame serve for another.

The means are over the whole image. So they hardly change where a scene only moves, and do where it becomes brighter,
flatter or sharper: the figures are the average levels, the contrast, and how much neighbouring pixels differ. They are
taken from about 50,000 pixels all over the frame, in a few milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overnet.types import Image

_SAMPLES = 50_000
# The largest changes within which means are carried over: of the average levels and of the contrast, in grey levels,
# and of the detail, as the logarithm of a ratio. On shared/clips they keep the result within 60 dB of that with the
# frame's own means (tests/runtime/test_tiled_stream.py).
_LEVELS, _CONTRAST, _DETAIL = 3.0, 2.0, 0.06
# Detail of less than about this many levels counts as none.
_LEAST_DETAIL = 0.25
# A new scene: pixels differ from the frame before by more than this many levels, and by this share of the contrast.
# Frames that have nothing in common differ by about 1.1 times the contrast.
_CUT_LEVELS, _CUT_CONTRAST = 3.0, 0.4


@dataclass(frozen=True)
class FrameFigures:
    """The figures of one frame.

    Attributes:
        samples: green of these pixels.
        levels: their average red, green and blue.
        contrast: the standard deviation of the samples.
        detail: logarithms of the average difference between neighbours to the side, between neighbours above one
            another, and between a pixel and the average of its four neighbours.
    """

    samples: NDArray[np.int16]
    levels: NDArray[np.float64]
    contrast: float
    detail: NDArray[np.float64]

    def is_cut_after(self, before: FrameFigures) -> bool:
        """Return whether a new scene begins with this frame, given the frame before, of the same size."""
        difference = float(np.abs(self.samples - before.samples).mean())
        return difference > max(_CUT_LEVELS, _CUT_CONTRAST * min(self.contrast, before.contrast))

    def resembles(self, other: FrameFigures) -> bool:
        """Return whether the channel means of a frame of the same scene serve for this one too."""
        return (
            float(np.abs(self.levels - other.levels).max()) <= _LEVELS
            and abs(self.contrast - other.contrast) <= _CONTRAST
            and float(np.abs(self.detail - other.detail).max()) <= _DETAIL
        )


def measure_frame(frame: Image) -> FrameFigures:
    """Return the figures of an H x W x 3 uint8 frame of at least 3 x 3 pixels."""
    height, width = frame.shape[:2]
    pixels = frame.reshape(height * width, 3)
    step = max(1, height * width // _SAMPLES)
    # So that the places differ from row to row: in columns of samples, upright edges would come and go as they move.
    while math.gcd(step, width) > 1:
        step += 1

    def shifted(by: int) -> NDArray[np.int16]:
        return pixels[width + by : height * width - width + by : step, 1].astype(np.int16)

    samples, right, below = shifted(0), shifted(1), shifted(width)
    curvature = (right + below + shifted(-1) + shifted(-width) - 4 * samples) / 4
    detail = [float(np.abs(difference).mean()) for difference in (right - samples, below - samples, curvature)]
    return FrameFigures(
        samples,
        pixels[width:-width:step].mean(axis=0),
        float(samples.std()),
        np.log(np.asarray(detail) + _LEAST_DETAIL),
    )
