"""The sample images of the package: exports are verified, INT8 is calibrated and speed is measured on them.

Photographs, and frames as computers draw them, which INT8 must hold as well: one colour, and text.
"""

from pathlib import Path

import numpy as np

from overnet.imaging.image_io import read_rgb
from overnet.types import Image

_COLOURS = ((230, 20, 60), (20, 110, 240), (0, 0, 0), (255, 255, 255))


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


def synthetic_frames() -> list[Image]:
    """Draw text, two flat colours, black, and white: the first 56 x 88 x 3, the others 24 x 32 x 3 uint8 RGB."""
    import cv2

    # Thin and thick letters, dark on white and yellow on dark blue.
    frame = np.full((56, 88, 3), 255, np.uint8)
    frame[28:] = (16, 24, 96)
    cv2.putText(frame, "Abc 123", (2, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
    cv2.putText(frame, "Xyz 789", (2, 48), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 0), 2, cv2.LINE_AA)
    return [frame, *(np.full((24, 32, 3), colour, np.uint8) for colour in _COLOURS)]
