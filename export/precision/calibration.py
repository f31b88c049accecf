"""Images for calibrating and verifying a network: the sample photographs, or a folder of the user's."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.errors import InputError
from overnet.evaluation.datasets import spread_sample
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.image_io import is_image_file, read_rgb
from overnet.imaging.resample import imresize
from overnet.imaging.sample_images import centre_crop, sample_photographs
from overnet.types import Image

# From a folder, this many images are taken, evenly spread over it, and the central square of each: more take longer and
# change little.
MOST_IMAGES = 32
_SIDE = 144
_SMALLEST_SIDE = 48


@dataclass(frozen=True)
class Pair:
    """The reduction of an image, and the image: h x w x 3 and `scaled_size` of it x 3, uint8."""

    low: Image
    high: Image


def calibration_images(folder: Path | None) -> tuple[list[Image], list[str]]:
    """Read the images to calibrate on.

    Args:
        folder: a folder of images, searched with its subfolders; None for the sample photographs.

    Returns:
        H x W x 3 uint8 RGB each, at most 144 pixels high and wide; and a remark on each file that was left out.

    Raises:
        InputError: the folder is missing, or has no image that can be read and is large enough.
    """
    if folder is None:
        return sample_photographs(), []
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if is_image_file(path))
    images, remarks = [], []
    for path in spread_sample(files, MOST_IMAGES):
        try:
            image = read_rgb(path)
        except InputError as error:
            remarks.append(f"left out: {error}")
            continue
        if min(image.shape[:2]) < _SMALLEST_SIDE:
            remarks.append(f"left out: {path} has sides under {_SMALLEST_SIDE} pixels")
            continue
        images.append(centre_crop(image, _SIDE))
    if not images:
        raise InputError(
            f"{folder}: no image in it that can be read and has sides of {_SMALLEST_SIDE} pixels"
            + (f" ({remarks[0]})" if remarks else "")
        )
    return images, remarks


def pairs_of(images: list[Image], scale: float) -> list[Pair]:
    """Return each image, cut to what an upscaled image can have, with its reduction by the evaluation protocol."""
    pairs = []
    for image in images:
        size = math.floor(image.shape[0] / scale), math.floor(image.shape[1] / scale)
        height, width = scaled_size(*size, scale)
        high = np.ascontiguousarray(image[:height, :width])
        pairs.append(Pair(np.asarray(imresize(high, size=size), np.uint8), high))
    return pairs
