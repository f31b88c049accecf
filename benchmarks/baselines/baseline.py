"""What a baseline is: a method that is no backend of ours, behind one function."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from overnet.types import Upscale


@dataclass(frozen=True)
class Baseline:
    """A method that is loaded and ready.

    Attributes:
        name: for people; no two baselines have the same.
        device: what it runs on, for people.
        precision: of the arithmetic, as of a `overnet.benchmarks.results.Case`.
        model: the model's file name; empty where there is none.
        upscale: N x H x W x 3 uint8 RGB to N x scale*H x scale*W x 3 uint8 RGB.
        is_network: whether it computes the very network that the backends compute, so that its exact result applies.
        multiply_accumulates_per_pixel: of the input; None where that is not known.
        bytes_per_pixel: memory that a run takes for each input pixel, as a cautious estimate; 0 where that is next to
            nothing or not known.
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
    """A batch by a method that takes one image."""
    return lambda images: np.stack([upscale(image) for image in images])


def limit_opencv(threads: int | None) -> None:
    """Set how many threads OpenCV computes with; None leaves it its own choice."""
    if threads is not None:
        cv2.setNumThreads(threads)
