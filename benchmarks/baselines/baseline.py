"""The interface of baselines: methods other than this package's backends."""

from dataclasses import dataclass

import cv2
import numpy as np

from overnet.types import Upscale


@dataclass(frozen=True)
class Baseline:
    """A method that is loaded and ready.

    Attributes:
        name: unique among the baselines.
        device: the name of the device that computes.
        precision: of the arithmetic, see `overnet.benchmarks.results.Case`.
        model: the model's file name; empty if there is none.
        upscale: N x H x W x 3 uint8 RGB to N x scale*H x scale*W x 3 uint8 RGB.
        is_network: whether it computes the same network as the backends, with the same exact result.
        multiply_accumulates_per_pixel: of the input; None if unknown.
        bytes_per_pixel: an upper estimate of the memory per input pixel; 0 if negligible or unknown.
    """

    name: str
    device: str
    precision: str
    model: str
    upscale: Upscale
    is_network: bool = False
    multiply_accumulates_per_pixel: float | None = None
    bytes_per_pixel: int = 0


def one_by_one(upscale: Upscale) -> Upscale:
    """Make a method that takes one image take a batch."""
    return lambda images: np.stack([upscale(image) for image in images])


def limit_opencv(threads: int | None) -> None:
    """Set the number of OpenCV's threads; None keeps its default."""
    if threads is not None:
        cv2.setNumThreads(threads)
