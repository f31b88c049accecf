"""Upscaling in four overlapping quarters, as the original's tester does. Needs no torch."""

from __future__ import annotations

import numpy as np

from overnet.types import Image, Upscale

# In input pixels, beyond the middle of the image: the original's.
OVERLAP = 20


def in_quarters(upscale: Upscale, scale: int, *, overlap: int = OVERLAP) -> Upscale:
    """Make a function that upscales the four quarters of an image one by one and joins them without blending.

    Each quarter reaches `overlap` pixels beyond the middle, or as far as the image does, and what it has there is
    thrown away. The network sees each with its own means, and so the result differs from that of the whole image.

    Args:
        upscale: h x w x 3 uint8 to scale*h x scale*w x 3 uint8.
        scale: a whole number.

    Returns:
        A function of the same kind.
    """

    def upscale_quarters(image: Image) -> Image:
        height, width = image.shape[:2]
        joined = np.empty((height * scale, width * scale, 3), np.uint8)
        for rows, kept_rows in _halves(height, overlap):
            for columns, kept_columns in _halves(width, overlap):
                quarter = upscale(np.ascontiguousarray(image[rows, columns]))
                inside = quarter[_scaled(kept_rows, rows.start, scale), _scaled(kept_columns, columns.start, scale)]
                joined[_scaled(kept_rows, 0, scale), _scaled(kept_columns, 0, scale)] = inside
        return joined

    return upscale_quarters


def _halves(length: int, overlap: int) -> list[tuple[slice, slice]]:
    """What each half of an axis is given, and what of it is kept, in pixels of the image."""
    middle = length // 2
    if middle == 0:
        return [(slice(0, length), slice(0, length))]
    first = slice(0, min(middle + overlap, length)), slice(0, middle)
    second = slice(max(middle - overlap, 0), length), slice(middle, length)
    return [first, second]


def _scaled(span: slice, origin: int, scale: int) -> slice:
    return slice((span.start - origin) * scale, (span.stop - origin) * scale)
