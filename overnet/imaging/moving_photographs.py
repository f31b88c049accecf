"""The images that methods are timed on: the bundled photographs, tiled to any size.

A network's speed does not depend on the image, but a video encoder's speed and the quality of the result do, so the
images are neither noise nor uniform. Needs no torch.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.imaging.sample_images import sample_photographs
from overnet.types import Image
from overnet.words import counted

# The movement between two frames in pixels down and to the right, similar to a slow pan.
_MOVED_ROWS, _MOVED_COLUMNS = 1, 3


@cache
def _photographs() -> tuple[Image, ...]:
    return tuple(sample_photographs())


def image(width: int, height: int) -> Image:
    """Return an image of photographs, the same every time.

    Args:
        width, height: in pixels, at least 1.

    Returns:
        height x width x 3 uint8 RGB, C-contiguous.

    Raises:
        InputError: a side is less than 1.
    """
    if width < 1 or height < 1:
        raise InputError(f"an image of {width}x{height} pixels: both sides must be at least 1")
    photographs = _photographs()
    side = photographs[0].shape[0]
    whole = np.empty((height, width, 3), np.uint8)
    for row in range(-(-height // side)):
        for column in range(-(-width // side)):
            # Every row begins with another photograph, and repeated photographs are mirrored.
            index = column + 3 * row
            photograph = photographs[index % len(photographs)]
            if index // len(photographs) % 2:
                photograph = photograph[:, ::-1]
            place = whole[row * side : (row + 1) * side, column * side : (column + 1) * side]
            place[:] = photograph[: place.shape[0], : place.shape[1]]
    return whole


def frames(width: int, height: int, count: int) -> Iterator[Image]:
    """Yield `count` images, each the previous one moved a little and wrapped around.

    Yields:
        height x width x 3 uint8 RGB each, in arrays of their own.

    Raises:
        InputError: see `image`.
    """
    first = image(width, height)
    for index in range(count):
        yield np.roll(first, (index * _MOVED_ROWS, index * _MOVED_COLUMNS), axis=(0, 1))


def batch_of(width: int, height: int, count: int) -> NDArray[np.uint8]:
    """Return several different images in one array: ``np.stack`` of `frames`.

    Returns:
        count x height x width x 3 uint8 RGB, C-contiguous.

    Raises:
        InputError: see `image`; or `count` is less than 1.
    """
    if count < 1:
        raise InputError(f"a batch of {counted(count, 'image')}; at least 1 is needed")
    return np.stack(list(frames(width, height, count)))
