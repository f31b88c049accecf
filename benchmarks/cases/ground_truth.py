"""PSNR and SSIM of methods against real images, the same for backends and baselines.

The images come from the user's folder or, by default, from the photographs bundled with the package. So every method
has a quality figure, even one that is not the network and has no exact result to be compared with.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.benchmarks.results import QualityFigures
from overnet.errors import printable
from overnet.evaluation.datasets import find_pairs, read_pair, spread_sample
from overnet.evaluation.measure import cut_to, mean_quality, measure
from overnet.imaging.sample_images import photographs_folder
from overnet.types import Image, Upscale

# More images would take slow baselines minutes and change little.
MOST_IMAGES = 5
# Larger images are cropped to their centre; Set5 and most of Set14 are not, and reach the published numbers.
LARGEST_JUDGED_SIDE = 512

_BUNDLED = "bundled photographs"


@dataclass(frozen=True)
class GroundTruthImage:
    """A real image and its downscaled version.

    Attributes:
        name: of the file, without suffix.
        low, high: h x w x 3 and at most scale*h x scale*w x 3, uint8 RGB.
    """

    name: str
    low: Image
    high: Image


@dataclass(frozen=True)
class GroundTruth:
    """The real images for one scale.

    Attributes:
        images: at least one.
        words: their description in a report.
    """

    scale: int
    images: list[GroundTruthImage]
    words: str


def read_ground_truth(data: Path | None, scale: int) -> GroundTruth:
    """Read the real images for one scale.

    Args:
        data: a folder in a layout that `overnet.evaluation.datasets.find_pairs` knows; None for the bundled
            photographs.
        scale: from the low-resolution to the high-resolution side.

    Raises:
        InputError: see `overnet.evaluation.datasets.find_pairs` and `overnet.evaluation.datasets.read_pair`.
    """
    pairs = find_pairs(data or photographs_folder(), scale)
    chosen = spread_sample(pairs, MOST_IMAGES)
    images, cut = [], False
    for pair in chosen:
        low, high = read_pair(pair, scale)
        image = middle(GroundTruthImage(pair.name, low, high), scale, LARGEST_JUDGED_SIDE)
        cut |= image.low.shape != low.shape
        images.append(image)
    count = str(len(chosen)) if len(chosen) == len(pairs) else f"{len(chosen)} of {len(pairs)}"
    title = printable(data.absolute().name) if data else _BUNDLED
    plural = "" if count == "1" else "s"
    words = f"{count} {title}" if data is None else f"{count} image{plural} of {title}"
    return GroundTruth(scale, images, f"{words}, large ones cropped" if cut else words)


def middle(image: GroundTruthImage, scale: int, largest_side: int) -> GroundTruthImage:
    """Crop an image to its centre, at whole pixels of the low-resolution side.

    Args:
        scale: from the low-resolution to the high-resolution side.
        largest_side: the largest height and width of the high-resolution result; smaller images are not cropped.
    """
    largest = largest_side // scale
    height, width = (min(side, largest) for side in image.low.shape[:2])
    top, left = (image.low.shape[0] - height) // 2, (image.low.shape[1] - width) // 2
    low = image.low[top : top + height, left : left + width]
    high = image.high[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    return GroundTruthImage(image.name, np.ascontiguousarray(low), np.ascontiguousarray(high))


def quality_figures(upscale: Upscale, ground_truth: GroundTruth) -> QualityFigures:
    """Measure mean PSNR and SSIM of a method against the real images, on luma by the papers' protocol.

    Args:
        upscale: h x w x 3 uint8 RGB to scale*h x scale*w x 3 uint8 RGB.
    """
    mean = mean_quality(
        [
            measure(image.high, cut_to(upscale(image.low), image.high), ground_truth.scale)
            for image in ground_truth.images
        ]
    )
    return QualityFigures(
        reference="",
        reference_psnr_db=None,
        largest_difference_levels=None,
        ground_truth_psnr_db=mean.psnr_db if math.isfinite(mean.psnr_db) else None,
        ground_truth_ssim=mean.ssim,
        ground_truth=ground_truth.words,
    )
