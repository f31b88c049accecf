"""Pictures to look at a network's numbers on: the package's own few, or a folder of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.evaluation.datasets import evenly_spread, read_rgb
from overnet.imaging.resample import imresize

Picture = NDArray[np.uint8]

# From a folder, so many pictures are taken, evenly spread over it, and of each a square out of its middle: more take
# longer and change little.
MOST_PICTURES = 32
_SIDE = 144
_SMALLEST_SIDE = 48
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """A picture and its reduction: h x w x 3 and scale*h x scale*w x 3, uint8."""

    low: Picture
    high: Picture


def own_folder() -> Path:
    """Where the pictures lie that come with the package."""
    return Path(__file__).parent / "pictures"


def own_pictures() -> list[Picture]:
    """The pictures that come with the package: photographs, 144 x 144 x 3 uint8 RGB each."""
    return [read_rgb(path) for path in sorted(own_folder().glob("*.webp"))]


def calibration_pictures(folder: Path | None) -> tuple[list[Picture], list[str]]:
    """Pictures to calibrate on.

    Parameters
    ----------
    folder : of pictures, searched with its subfolders; None for the package's own.

    Returns
    -------
    H x W x 3 uint8 RGB each, at most 144 pixels high and wide; and a remark on each file that was left out.

    Raises
    ------
    InputError : the folder is missing, or has no picture that can be read and is large enough.
    """
    if folder is None:
        return own_pictures(), []
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    pictures, remarks = [], []
    for path in evenly_spread(files, MOST_PICTURES):
        try:
            picture = read_rgb(path)
        except InputError as error:
            remarks.append(f"left out: {error}")
            continue
        if min(picture.shape[:2]) < _SMALLEST_SIDE:
            remarks.append(f"left out: {path} has sides under {_SMALLEST_SIDE} pixels")
            continue
        pictures.append(middle(picture, _SIDE))
    if not pictures:
        raise InputError(
            f"{folder}: no picture in it that can be read and has sides of {_SMALLEST_SIDE} pixels"
            + (f" ({remarks[0]})" if remarks else "")
        )
    return pictures, remarks


def middle(picture: Picture, side: int) -> Picture:
    """The middle of a picture, at most `side` pixels high and wide."""
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def pairs_of(pictures: list[Picture], scale: int) -> list[Pair]:
    """Each picture, cut to a multiple of the scale, with its reduction as the evaluation protocol makes it."""
    pairs = []
    for picture in pictures:
        height, width = (length // scale for length in picture.shape[:2])
        high = np.ascontiguousarray(picture[: height * scale, : width * scale])
        pairs.append(Pair(np.asarray(imresize(high, size=(height, width)), np.uint8), high))
    return pairs
