"""PSNR and SSIM over sets of image pairs, by the protocol of the super-resolution papers. Needs no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from overnet.evaluation.datasets import Pair, Read, read_pair
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.image_io import read_rgb
from overnet.imaging.metrics import psnr_luma, ssim_luma
from overnet.imaging.resample import imresize
from overnet.types import Image, Upscale


@dataclass(frozen=True)
class Quality:
    """PSNR in dB and SSIM, on luma, borders as wide as the scale left out."""

    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Comparison:
    """The results of several methods for one image.

    Attributes:
        high: H x W x 3 uint8 RGB, the ground truth.
        upscaled: by method, H x W x 3 uint8 RGB.
        qualities: by method.
    """

    pair: Pair
    high: Image
    upscaled: dict[str, Image]
    qualities: dict[str, Quality]


def compare(methods: Mapping[str, Upscale], pair: Pair, scale: float, read: Read = read_rgb) -> Comparison:
    """Upscale the low side of a pair by each method and measure the results against the high side.

    Args:
        methods: by name, h x w x 3 uint8 RGB to scale*h x scale*w x 3 uint8 RGB.
        scale: also the border left out, in pixels, rounded up.
        read: reads a file as H x W x 3 uint8 RGB.

    Raises:
        InputError: see `overnet.evaluation.datasets.read_pair`.
    """
    low, high = read_pair(pair, scale, read)
    upscaled = {name: cut_to(upscale(low), high) for name, upscale in methods.items()}
    return Comparison(pair, high, upscaled, {name: measure(high, made, scale) for name, made in upscaled.items()})


def cut_to(upscaled: Image, high: Image) -> Image:
    """Cut a result to the size of the high side: it is larger where MATLAB rounded the low side's size up."""
    return upscaled[: high.shape[0], : high.shape[1]]


def measure(high: Image, upscaled: Image, scale: float) -> Quality:
    """Measure a result against the high side, H x W x 3 uint8 RGB; the border left out is `scale`, rounded up."""
    border = math.ceil(scale)
    return Quality(psnr_luma(high, upscaled, border=border), ssim_luma(high, upscaled, border=border))


def evaluate(upscale: Upscale, pairs: list[Pair], scale: float, read: Read = read_rgb) -> list[Quality]:
    """Upscale the low side of each pair and compare it with the high side.

    Args:
        upscale, scale, read: see `compare`.
        pairs: the pairs to measure.

    Returns:
        One `Quality` for each pair, in order.
    """
    return [compare({"": upscale}, pair, scale, read).qualities[""] for pair in pairs]


def bicubic(scale: float) -> Upscale:
    """Return MATLAB's bicubic enlargement by a scale, the baseline of the papers."""

    def enlarge(image: Image) -> Image:
        size = scaled_size(image.shape[0], image.shape[1], scale)
        return np.asarray(imresize(image, size=size), dtype=np.uint8)

    return enlarge


def mean_quality(results: list[Quality]) -> Quality:
    """Return the mean over images, as in the papers' tables."""
    return Quality(
        float(np.mean([result.psnr_db for result in results])), float(np.mean([result.ssim for result in results]))
    )
