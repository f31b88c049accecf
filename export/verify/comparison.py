"""The comparison of an exported file's results with a reference, and how far they may differ. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from overnet.errors import require
from overnet.imaging.metrics import largest_difference, psnr
from overnet.imaging.sample_images import centre_crop, sample_photographs, synthetic_frames
from overnet.system.openvino_core import openvino_core
from overnet.types import Image, Upscale

# Height and width of the crops of the package's photographs: a wrong graph is wrong there too, and whole ones take
# longer.
_PHOTOGRAPH_SIDE = 64


@dataclass(frozen=True)
class Parity:
    """The difference between an exported file and its reference, over all images compared.

    Attributes:
        largest_difference: in grey levels, 0 to 255.
        psnr_db: of the exported file's images against the reference's, all channels; infinite where all are equal.
        measured_by: what ran the file.
        reference: what ran the reference; empty where no comparison was needed.
    """

    largest_difference: int
    psnr_db: float
    measured_by: str
    reference: str

    @property
    def statement(self) -> str:
        """What was compared with what."""
        return f"{self.measured_by}, against {self.reference}" if self.reference else self.measured_by

    def worse(self, other: Parity) -> Parity:
        """Return the worse figures of two measurements of one file."""
        return replace(
            self,
            largest_difference=max(self.largest_difference, other.largest_difference),
            psnr_db=min(self.psnr_db, other.psnr_db),
            measured_by=f"{self.measured_by}, {other.measured_by}",
        )


@dataclass(frozen=True)
class Tolerance:
    """The largest difference from the reference with which a file is accepted.

    Attributes:
        least_psnr_db: of the file's images against the reference's.
        diverging_db: signal-to-noise ratio below which a tensor inside the graph counts as diverging, in the search for
            the cause of a refusal.
        most_levels: the largest difference allowed, in grey levels.
    """

    least_psnr_db: float
    diverging_db: float
    most_levels: int = 255

    def __str__(self) -> str:
        levels = "" if self.most_levels == 255 else f", and at most {self.most_levels} grey level"
        return f"at least {self.least_psnr_db:g} dB{levels}"

    def holds(self, parity: Parity) -> bool:
        """Return whether a measurement is within the tolerance."""
        return parity.psnr_db >= self.least_psnr_db and parity.largest_difference <= self.most_levels

    def refusal(self, name: str, parity: Parity) -> str:
        """Return the error message for a file that is not within the tolerance."""
        return (
            f"{name} is refused: it differs from {parity.reference} by up to {parity.largest_difference} grey levels, "
            f"{parity.psnr_db:.1f} dB (in {parity.measured_by}), and {self} is needed"
        )


# FP32 differs only in the order of additions. 50 dB is a mean error of 0.8 grey levels, which nobody can see. INT8 is
# judged by its loss against the ground truth (`overnet.export.precision.layer_choice`); here is only a lower limit,
# which images of noise set: their activations are clipped (measured 29.7 dB for `realtime` at x4).
TOLERANCES = {
    "fp32": Tolerance(60, diverging_db=60, most_levels=1),
    "fp16": Tolerance(50, diverging_db=30),
    "bf16": Tolerance(45, diverging_db=20),
    "int8": Tolerance(25, diverging_db=10),
}


class ReferenceResults:
    """The reference's results for some images, to compare others' results with.

    Args:
        reference: the network, from `overnet.export.verify.onnx_file.in_network`, or what replaces it; with its name.
        images: H x W x 3 uint8 each, at least one.
    """

    def __init__(self, reference: tuple[Upscale, str], images: list[Image]) -> None:
        upscale, self._name = reference
        self._images = images
        self._expected = [upscale(image) for image in images]

    def compare(self, upscale: Upscale, measured_by: str) -> Parity:
        """Run every image through `upscale` and compare the results with the reference's."""
        largest, errors = 0, []
        for image, expected in zip(self._images, self._expected, strict=True):
            upscaled = upscale(image)
            largest = max(largest, largest_difference(upscaled, expected))
            errors.append(10 ** (-psnr(expected, upscaled, border=0) / 10))
        mean_error = float(np.mean(errors))
        decibels = -10 * math.log10(mean_error) if mean_error else math.inf
        return Parity(largest, decibels, measured_by, self._name)


def in_openvino(model: Path | onnx.ModelProto) -> tuple[Upscale, str]:
    """Return a function that runs an ONNX file or graph in OpenVINO on the CPU, and OpenVINO's name and version."""
    openvino = require("openvino", extra="", purpose="comparing an ONNX file with the network")
    core = openvino_core()
    graph = core.read_model(str(model) if isinstance(model, Path) else model.SerializeToString())
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def upscale(image: Image) -> Image:
        upscaled: Image = np.array(compiled(image[None])[0])[0]
        return upscaled

    return upscale, f"OpenVINO {openvino.__version__.partition('-')[0]}"


def comparison_images() -> list[Image]:
    """Return the images that every file is compared on: crops of photographs, and `drawn_images`."""
    return [*(centre_crop(image, _PHOTOGRAPH_SIDE) for image in sample_photographs()), *drawn_images()]


def drawn_images() -> list[Image]:
    """Draw images of odd sizes, the same every time.

    They are smooth, noisy, a coarse and a fine checkerboard, and synthetic frames.
    """
    random = np.random.default_rng(2021)
    rows, columns = np.mgrid[0:61, 0:83]
    waves = np.stack([np.sin(rows / 5 + k) * np.cos(columns / (3 + k)) for k in range(3)], axis=-1)
    photo_like = np.clip(127 + 90 * waves + random.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)
    noise = random.integers(0, 256, (37, 48, 3), dtype=np.uint8)
    board = np.repeat((((rows // 4 + columns // 4) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    # Every other pixel: the highest frequency there is, and the largest activations.
    fine = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[:40, :52, None], 3, axis=2)
    return [photo_like, noise, board, fine, *synthetic_frames()]
