"""Validation while training: PSNR on luma by the papers' protocol."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.errors import InputError
from overnet.evaluation.datasets import find_pairs, read_pair
from overnet.evaluation.measure import cut_to
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.image_io import read_rgb
from overnet.imaging.metrics import psnr_luma
from overnet.imaging.resample import imresize
from overnet.network.family import Network
from overnet.network.model import reference
from overnet.types import Image


@dataclass(frozen=True)
class Example:
    """A low-resolution image, the high-resolution image it was made from, and the scale."""

    low: Image
    high: Image
    scale: float


def load_examples(folder: Path, scales: list[float], *, most: int = 100) -> list[Example]:
    """Read the examples of a folder for each scale.

    Args:
        folder: in any layout of `overnet.evaluation.datasets`; missing low-resolution images are made.
        scales: for those that are no whole numbers, all low-resolution images are made, of the images for the next
            larger or smaller whole scale.
        most: the largest number of images for a scale; further ones are left out.

    Raises:
        InputError: there is no image for a scale, an image is damaged or too small, or see
            `overnet.evaluation.datasets.find_pairs`.
    """
    examples = []
    for scale in scales:
        if scale == int(scale):
            whole = int(scale)
            examples += [Example(*read_pair(pair, whole), whole) for pair in find_pairs(folder, whole)[:most]]
            continue
        try:
            pairs = find_pairs(folder, math.ceil(scale))
        except InputError:
            pairs = find_pairs(folder, math.floor(scale))
        examples += [Example(*_reduced(read_rgb(pair.high), scale), scale) for pair in pairs[:most]]
    return examples


def _reduced(high: Image, scale: float) -> tuple[Image, Image]:
    """Return an image reduced by a fraction, and itself cut to the size of the result at that scale."""
    size = max(1, int(high.shape[0] / scale)), max(1, int(high.shape[1] / scale))
    height, width = scaled_size(*size, scale)
    cut = np.ascontiguousarray(high[:height, :width])
    return np.asarray(imresize(cut, size=size, edge="replicate"), dtype=np.uint8), cut


def validate(model: Network, examples: list[Example]) -> tuple[dict[float, float], list[Image]]:
    """Measure the PSNR of a network.

    Returns:
        The mean PSNR in dB for each scale, and the upscaled images in the order of `examples`.
    """
    images = []
    values: dict[float, list[float]] = {}
    for example in examples:
        image = cut_to(reference(model, example.low, example.scale), example.high)
        images.append(image)
        values.setdefault(example.scale, []).append(psnr_luma(example.high, image, border=math.ceil(example.scale)))
    return {scale: float(np.mean(each)) for scale, each in values.items()}, images
