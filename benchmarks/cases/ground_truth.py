"""Which real pictures methods are judged on, and how good their results are: the same for backends and for rivals.

Pictures come from the user's folder or, where none is given, from the photographs that come with the package; so every
method has a figure, also one that is no network and has no exact result to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.benchmarks.results import QualityFigures
from overnet.evaluation.datasets import evenly_spread, find_pairs, read_pair
from overnet.evaluation.measure import Picture, Quality, Upscale, cut_to, mean_quality, measure
from overnet.export.precision.calibration import own_folder
from overnet.files.atomic import printable

# Slow rivals go through all of them: more would take minutes and change little.
MOST_PICTURES = 5
# Larger pictures are cut to their middle; those of Set5 and most of Set14 are not, and come to the published numbers.
LARGEST_SIDE = 512

_BUNDLED = "photographs that come with overnet"


@dataclass(frozen=True)
class TruthPicture:
    """A real picture and its reduction.

    Attributes
    ----------
    name : of the file, without its ending.
    low, high : h x w x 3 and at most scale*h x scale*w x 3, uint8 RGB.
    """

    name: str
    low: Picture
    high: Picture


@dataclass(frozen=True)
class Truth:
    """The pictures to judge on at one scale.

    Attributes
    ----------
    pictures : at least one.
    words : which these are, for a report.
    """

    scale: int
    pictures: list[TruthPicture]
    words: str


def read_truth(data: Path | None, scale: int) -> Truth:
    """Read the pictures to judge on.

    Parameters
    ----------
    data : a folder in a form that `overnet.evaluation.datasets.find_pairs` understands; None for the package's own
        photographs.
    scale : from the low to the high side.

    Raises
    ------
    InputError : see `overnet.evaluation.datasets.find_pairs` and `overnet.evaluation.datasets.read_pair`.
    """
    pairs = find_pairs(data or own_folder(), scale)
    chosen = evenly_spread(pairs, MOST_PICTURES)
    pictures, cut = [], False
    for pair in chosen:
        low, high = read_pair(pair, scale)
        picture = middle(TruthPicture(pair.name, low, high), scale, LARGEST_SIDE)
        cut |= picture.low.shape != low.shape
        pictures.append(picture)
    count = str(len(chosen)) if len(chosen) == len(pairs) else f"{len(chosen)} of {len(pairs)}"
    title = printable(Path(data.absolute().name)) if data else _BUNDLED
    plural = "" if count == "1" else "s"
    words = f"{count} {title}" if data is None else f"{count} picture{plural} of {title}"
    return Truth(scale, pictures, f"{words}, the middle of large ones" if cut else words)


def middle(picture: TruthPicture, scale: int, largest_side: int) -> TruthPicture:
    """The middle of a picture, cut on whole pixels of the low side.

    Parameters
    ----------
    scale : from the low to the high side.
    largest_side : of the high side of what is left, in pixels; a smaller picture stays as it is.
    """
    largest = largest_side // scale
    height, width = (min(side, largest) for side in picture.low.shape[:2])
    top, left = (picture.low.shape[0] - height) // 2, (picture.low.shape[1] - width) // 2
    low = picture.low[top : top + height, left : left + width]
    high = picture.high[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    return TruthPicture(picture.name, np.ascontiguousarray(low), np.ascontiguousarray(high))


def upscaled_by(upscale: Upscale, truth: Truth) -> list[Picture]:
    """What a method makes of the pictures.

    Parameters
    ----------
    upscale : h x w x 3 uint8 to scale*h x scale*w x 3 uint8.
    """
    return [upscale(picture.low) for picture in truth.pictures]


def quality_against_truth(upscaled: list[Picture], truth: Truth) -> Quality:
    """PSNR and SSIM of results against the real pictures, on luma by the papers' protocol: means over the pictures.

    Parameters
    ----------
    upscaled : as `upscaled_by` gives it.
    """
    return mean_quality(
        [
            measure(picture.high, cut_to(made, picture.high), truth.scale)
            for picture, made in zip(truth.pictures, upscaled, strict=True)
        ]
    )


def quality_figures(upscaled: list[Picture], truth: Truth) -> QualityFigures:
    """What the real pictures say of a method's results.

    Parameters
    ----------
    upscaled : as `upscaled_by` gives it.
    """
    to_truth = quality_against_truth(upscaled, truth)
    return QualityFigures(
        reference="",
        reference_psnr_db=None,
        largest_difference_levels=None,
        truth_psnr_db=to_truth.psnr_db if math.isfinite(to_truth.psnr_db) else None,
        truth_ssim=to_truth.ssim,
        truth=truth.words,
    )
