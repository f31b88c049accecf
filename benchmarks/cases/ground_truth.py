"""Which real images methods are judged on, and how good their results are: the same for backends and for baselines.

Images come from the user's folder or, where none is given, from the photographs that come with the package; so every
method has a figure, also one that is no network and has no exact result to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.benchmarks.results import QualityFigures
from overnet.evaluation.datasets import find_pairs, read_pair, spread_sample
from overnet.evaluation.measure import Quality, cut_to, mean_quality, measure
from overnet.export.precision.calibration import own_folder
from overnet.files.atomic import printable
from overnet.types import Image, Upscale

# Slow baselines go through all of them: more would take minutes and change little.
MOST_IMAGES = 5
# Larger images are cut to their middle; those of Set5 and most of Set14 are not, and come to the published numbers.
LARGEST_JUDGED_SIDE = 512

_BUNDLED = "photographs that come with overnet"


@dataclass(frozen=True)
class GroundTruthImage:
    """A real image and its reduction.

    Attributes:
        name: of the file, without its ending.
        low, high: h x w x 3 and at most scale*h x scale*w x 3, uint8 RGB.
    """

    name: str
    low: Image
    high: Image


@dataclass(frozen=True)
class GroundTruth:
    """The images to judge on at one scale.

    Attributes:
        images: at least one.
        words: which these are, for a report.
    """

    scale: int
    images: list[GroundTruthImage]
    words: str


def read_ground_truth(data: Path | None, scale: int) -> GroundTruth:
    """Read the images to judge on.

    Args:
        data: a folder in a form that `overnet.evaluation.datasets.find_pairs` understands; None for the package's own
            photographs.
        scale: from the low to the high side.

    Raises:
        InputError: see `overnet.evaluation.datasets.find_pairs` and `overnet.evaluation.datasets.read_pair`.
    """
    pairs = find_pairs(data or own_folder(), scale)
    chosen = spread_sample(pairs, MOST_IMAGES)
    images, cut = [], False
    for pair in chosen:
        low, high = read_pair(pair, scale)
        image = middle(GroundTruthImage(pair.name, low, high), scale, LARGEST_JUDGED_SIDE)
        cut |= image.low.shape != low.shape
        images.append(image)
    count = str(len(chosen)) if len(chosen) == len(pairs) else f"{len(chosen)} of {len(pairs)}"
    title = printable(Path(data.absolute().name)) if data else _BUNDLED
    plural = "" if count == "1" else "s"
    words = f"{count} {title}" if data is None else f"{count} image{plural} of {title}"
    return GroundTruth(scale, images, f"{words}, the middle of large ones" if cut else words)


def middle(image: GroundTruthImage, scale: int, largest_side: int) -> GroundTruthImage:
    """The middle of an image, cut on whole pixels of the low side.

    Args:
        scale: from the low to the high side.
        largest_side: of the high side of what is left, in pixels; a smaller image stays as it is.
    """
    largest = largest_side // scale
    height, width = (min(side, largest) for side in image.low.shape[:2])
    top, left = (image.low.shape[0] - height) // 2, (image.low.shape[1] - width) // 2
    low = image.low[top : top + height, left : left + width]
    high = image.high[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    return GroundTruthImage(image.name, np.ascontiguousarray(low), np.ascontiguousarray(high))


def upscaled_by(upscale: Upscale, ground_truth: GroundTruth) -> list[Image]:
    """What a method makes of the images.

    Args:
        upscale: h x w x 3 uint8 to scale*h x scale*w x 3 uint8.
    """
    return [upscale(image.low) for image in ground_truth.images]


def quality_against_ground_truth(upscaled: list[Image], ground_truth: GroundTruth) -> Quality:
    """PSNR and SSIM of results against the real images, on luma by the papers' protocol: means over the images.

    Args:
        upscaled: as `upscaled_by` gives it.
    """
    return mean_quality(
        [
            measure(image.high, cut_to(made, image.high), ground_truth.scale)
            for image, made in zip(ground_truth.images, upscaled, strict=True)
        ]
    )


def quality_figures(upscaled: list[Image], ground_truth: GroundTruth) -> QualityFigures:
    """What the real images say of a method's results.

    Args:
        upscaled: as `upscaled_by` gives it.
    """
    to_ground_truth = quality_against_ground_truth(upscaled, ground_truth)
    return QualityFigures(
        reference="",
        reference_psnr_db=None,
        largest_difference_levels=None,
        ground_truth_psnr_db=to_ground_truth.psnr_db if math.isfinite(to_ground_truth.psnr_db) else None,
        ground_truth_ssim=to_ground_truth.ssim,
        ground_truth=ground_truth.words,
    )
