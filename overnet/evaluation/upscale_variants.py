"""Self-ensemble x8: an image is upscaled in its eight orientations, and the results are averaged. Needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from overnet.types import Image, Upscale

ORIENTATIONS = 8


def self_ensemble(upscale: Upscale) -> Upscale:
    """Make a function that averages the results for an image's four rotations and their mirror images.

    R. Timofte, R. Rothe, L. Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016.
    It takes eight times as long. Averaged are results in whole grey levels, as every backend gives them.

    Args:
        upscale: H x W x 3 uint8 to a larger such image, whose sides have swapped where the image's have.

    Returns:
        A function of the same kind.
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
        # To the nearest, halves up, as rounding to grey levels is done elsewhere.
        averaged: Image = ((total + ORIENTATIONS // 2) // ORIENTATIONS).astype(np.uint8)
        return averaged

    return upscale_all
