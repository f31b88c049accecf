"""The sample photographs in the package: exports are verified, INT8 is calibrated and speed is measured on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overnet.imaging.image_io import read_rgb
from overnet.types import Image


def photographs_folder() -> Path:
    """Return the folder of the sample photographs."""
    return Path(__file__).parent / "sample_photographs"


def sample_photographs() -> list[Image]:
    """Read the sample photographs: 144 x 144 x 3 uint8 RGB each, sorted by file name."""
    return [read_rgb(path) for path in sorted(photographs_folder().glob("*.webp"))]


def centre_crop(image: Image, side: int) -> Image:
    """Return the centre of an image, at most `side` pixels high and wide, as a contiguous array."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])
