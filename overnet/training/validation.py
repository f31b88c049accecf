"""Validation while training: PSNR on luma by the papers' protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.evaluation.datasets import find_pairs, read_pair
from overnet.evaluation.measure import cut_to
from overnet.imaging.metrics import psnr_luma
from overnet.network.family import Network
from overnet.network.model import reference
from overnet.types import Image


@dataclass(frozen=True)
class Example:
    """A low-resolution image, the high-resolution image it was made from, and the scale."""

    low: Image
    high: Image
    scale: int


def load_examples(folder: Path, scales: list[int], *, most: int = 100) -> list[Example]:
    """Read the examples of a folder for each scale.

    Args:
        folder: in any layout of `overnet.evaluation.datasets`; missing low-resolution images are made.
        scales: whole scales.
        most: the largest number of images for a scale; further ones are left out.

    Raises:
        InputError: there is no image for a scale, an image is damaged or too small, or see
            `overnet.evaluation.datasets.find_pairs`.
    """
    return [Example(*read_pair(pair, scale), scale) for scale in scales for pair in find_pairs(folder, scale)[:most]]


def validate(model: Network, examples: list[Example]) -> tuple[dict[int, float], list[Image]]:
    """Measure the PSNR of a network.

    Returns:
        The mean PSNR in dB for each scale, and the upscaled images in the order of `examples`.
    """
    images = []
    values: dict[int, list[float]] = {}
    for example in examples:
        image = cut_to(reference(model, example.low, example.scale), example.high)
        images.append(image)
        values.setdefault(example.scale, []).append(psnr_luma(example.high, image, border=example.scale))
    return {scale: float(np.mean(each)) for scale, each in values.items()}, images
