"""Draw the same detail of several images side by side, enlarged and labelled. Needs no torch."""

import cv2
import numpy as np

from overnet.imaging.metrics import luma
from overnet.imaging.resample import imresize
from overnet.types import Image

_LABEL_HEIGHT = 26
_GAP = 6
_PAPER = 255
_INK = (40, 40, 40)
_FRAME = (255, 60, 30)
_FRAME_WIDTH = 2


def side_by_side(images: dict[str, Image], *, top: int, left: int, side: int, enlarge: int = 1) -> Image:
    """Cut the same square out of each image and put them in a row, each under its label.

    Args:
        images: label to H x W x 3 uint8 RGB, all of one size.
        top, left, side: the square, in pixels.
        enlarge: whole number of times each pixel is repeated in each direction.

    Returns:
        H x W x 3 uint8 RGB on white.
    """
    details = {label: image[top : top + side, left : left + side] for label, image in images.items()}
    return _row(
        {label: detail.repeat(enlarge, axis=0).repeat(enlarge, axis=1) for label, detail in details.items()},
    )


def overview_and_detail(
    images: dict[str, Image], *, top: int, left: int, side: int, enlarge: int = 1, whole: str
) -> Image:
    """Draw one whole image with the square framed in it, and beside it the result of `side_by_side`.

    Args:
        images, top, left, side, enlarge: see `side_by_side`.
        whole: the label of the image to draw whole, reduced to the height of the details.
    """
    shown = images[whole]
    height = side * enlarge
    ratio = height / shown.shape[0]
    small = np.array(imresize(shown, size=(height, max(1, round(shown.shape[1] * ratio)))), dtype=np.uint8)
    corners = [(round(column * ratio), round(row * ratio)) for row, column in ((top, left), (top + side, left + side))]
    cv2.rectangle(small, corners[0], (corners[1][0] - 1, corners[1][1] - 1), _FRAME, _FRAME_WIDTH)
    details = side_by_side(images, top=top, left=left, side=side, enlarge=enlarge)
    return _beside([_row({whole: small}), details])


def _row(images: dict[str, Image]) -> Image:
    """Return images of one height in a row, each under its label."""
    columns = []
    for label, image in images.items():
        banner = np.full((_LABEL_HEIGHT, image.shape[1], 3), _PAPER, np.uint8)
        cv2.putText(banner, label, (2, _LABEL_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
        columns.append(np.concatenate([banner, image]))
    return _beside(columns)


def _beside(columns: list[Image]) -> Image:
    gap = np.full((columns[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    return np.concatenate([part for column in columns for part in (gap, column)][1:], axis=1)


def largest_gain(reference: Image, before: Image, after: Image, *, side: int, step: int = 8) -> tuple[int, int]:
    """Return the top and left of the square where `after` improves on `before` most.

    Measured by squared error on luma; with its logarithm (PSNR), a flat square with one edge would win.

    Args:
        reference, before, after: H x W x 3 uint8 RGB of one size, at least `side` high and wide.
        side: of the square, in pixels.
        step: squares are tried at multiples of this.
    """
    height, width = reference.shape[:2]
    expected = luma(reference)
    lost = (luma(before) - expected) ** 2 - (luma(after) - expected) ** 2
    # Sums over squares are differences of cumulative sums from the top left.
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = lost.cumsum(axis=0).cumsum(axis=1)
    above, before_it = np.arange(0, height - side + 1, step)[:, None], np.arange(0, width - side + 1, step)
    below, behind_it = above + side, before_it + side
    gains = sums[below, behind_it] - sums[above, behind_it] - sums[below, before_it] + sums[above, before_it]
    row, column = np.unravel_index(gains.argmax(), gains.shape)
    return int(row) * step, int(column) * step
