"""Other ways to apply an upscaler: averaged over eight orientations, or to four overlapping quarters."""

import numpy as np
from numpy.typing import NDArray

from overnet.types import Image, Upscale

ORIENTATIONS = 8

# Input pixels by which a quarter extends beyond the middle of the image, as in the original's tester.
OVERLAP = 20


def self_ensemble(upscale: Upscale) -> Upscale:
    """Return a function that averages the results for an image's four rotations and their mirror images (x8).

    R. Timofte, R. Rothe, L. Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016.
    It takes eight times as long. The averaged results are uint8, as every backend returns them.

    Args:
        upscale: H x W x 3 uint8 to a larger such image. Half of the calls get the image turned by 90 degrees.

    Returns:
        A function with the signature of `upscale`.
    """

    def upscale_all(image: Image) -> Image:
        total: NDArray[np.uint16] | None = None
        for mirrored in (False, True):
            for turns in range(4):
                turned = np.rot90(image[:, ::-1] if mirrored else image, turns)
                upright = np.rot90(upscale(np.ascontiguousarray(turned)), -turns)
                upright = upright[:, ::-1] if mirrored else upright
                total = upright.astype(np.uint16) if total is None else total + upright
        assert total is not None
        # Rounded to the nearest, halves up, as everywhere else.
        averaged: Image = ((total + ORIENTATIONS // 2) // ORIENTATIONS).astype(np.uint8)
        return averaged

    return upscale_all


def in_quarters(upscale: Upscale, scale: int, *, overlap: int = OVERLAP) -> Upscale:
    """Return a function that upscales the four quarters of an image one by one and joins them without blending.

    This is what the original's tester does. Each quarter extends `overlap` pixels beyond the middle, or to the edge of
    the image, and that margin is cut off its result. The network subtracts the means of each quarter, so the result
    differs from that of the whole image.

    Args:
        upscale: h x w x 3 uint8 to scale*h x scale*w x 3 uint8.
        scale: a whole number.

    Returns:
        A function with the signature of `upscale`.
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
    """Return the spans of input pixels that each half of an axis covers and keeps."""
    middle = length // 2
    if middle == 0:
        return [(slice(0, length), slice(0, length))]
    first = slice(0, min(middle + overlap, length)), slice(0, middle)
    second = slice(max(middle - overlap, 0), length), slice(middle, length)
    return [first, second]


def _scaled(span: slice, origin: int, scale: int) -> slice:
    return slice((span.start - origin) * scale, (span.stop - origin) * scale)
