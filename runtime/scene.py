"""Comparison of frames by a few figures: whether the channel means of one frame serve for another.

The means are over the whole image. So they hardly change where a scene only moves, and do where it becomes brighter,
flatter or sharper: the figures are the average levels, the contrast, and how much neighbouring pixels differ. They are
taken from about 50,000 pixels in a grid, in a few milliseconds.
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
        samples: green of the pixels in the grid.
        levels: the average red, green and blue of these.
        contrast: their standard deviation.
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
    step = max(1, math.isqrt(height * width // _SAMPLES))
    inner = slice(1, height - 1, step), slice(1, width - 1, step)
    green = frame[:, :, 1]

    def shifted(rows: int, columns: int) -> NDArray[np.int16]:
        return green[1 + rows : height - 1 + rows : step, 1 + columns : width - 1 + columns : step].astype(np.int16)

    samples, right, below = shifted(0, 0), shifted(0, 1), shifted(1, 0)
    curvature = (right + below + shifted(0, -1) + shifted(-1, 0) - 4 * samples) / 4
    detail = [float(np.abs(difference).mean()) for difference in (right - samples, below - samples, curvature)]
    return FrameFigures(
        samples,
        frame[inner].mean(axis=(0, 1)),
        float(samples.std()),
        np.log(np.asarray(detail) + _LEAST_DETAIL),
    )
