"""Whether an exported file computes what the network computes: both are run on the same pictures and compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from overnet.errors import require
from overnet.export.evaluator import visit_tensors
from overnet.metrics import largest_difference, psnr
from overnet.model import OverNet
from overnet.openvino_core import openvino_core

Picture = NDArray[np.uint8]
# H x W x 3 to scale*H x scale*W x 3.
Upscale = Callable[[Picture], Picture]


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the network, over all pictures compared.

    Attributes
    ----------
    largest_difference : in grey levels, 0 to 255.
    psnr_db : of the exported file's pictures against the network's, all channels; infinite where all are equal.
    measured_by : what ran the file.
    """

    largest_difference: int
    psnr_db: float
    measured_by: str

    def worse(self, other: Parity) -> Parity:
        """The worst of two measurements of one file."""
        return Parity(
            max(self.largest_difference, other.largest_difference),
            min(self.psnr_db, other.psnr_db),
            f"{self.measured_by}, {other.measured_by}",
        )


def reference(model: OverNet, picture: Picture, scale: float) -> Picture:
    """Upscale a picture with PyTorch, as the original does: clipped and rounded at the end.

    Parameters
    ----------
    picture : H x W x 3 uint8, RGB.

    Returns
    -------
    round(H * scale) x round(W * scale) x 3 uint8.
    """
    with torch.inference_mode():
        upscaled = model(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255, scale)[0]
        levels: Picture = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return levels


class Referee:
    """Holds what the network makes of some pictures, and compares others' results with it.

    Parameters
    ----------
    model : the network.
    scale : a whole number from 1 to its overscale factor.
    pictures : H x W x 3 uint8 each, at least one.
    """

    def __init__(self, model: OverNet, scale: int, pictures: list[Picture]) -> None:
        self._pictures = pictures
        self._expected = [reference(model, picture, scale) for picture in pictures]

    def compare(self, upscale: Upscale, measured_by: str) -> Parity:
        """Run every picture through `upscale` and compare."""
        largest, errors = 0, []
        for picture, expected in zip(self._pictures, self._expected, strict=True):
            upscaled = upscale(picture)
            largest = max(largest, largest_difference(upscaled, expected))
            errors.append(10 ** (-psnr(expected, upscaled, border=0) / 10))
        mean_error = float(np.mean(errors))
        return Parity(largest, -10 * math.log10(mean_error) if mean_error else math.inf, measured_by)


def in_openvino(path: Path) -> tuple[Upscale, str]:
    """Run a file as the runtime on a CPU does; with what to call that."""
    openvino = require("openvino", extra="", purpose="comparing an ONNX file with the network")
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def upscale(picture: Picture) -> Picture:
        upscaled: Picture = np.array(compiled(picture[None])[0])[0]
        return upscaled

    return upscale, f"OpenVINO {openvino.__version__.partition('-')[0]}"


class NotFiniteError(ArithmeticError):
    """A tensor inside a graph has numbers that are infinite or undefined."""


def in_declared_types(model: onnx.ModelProto) -> tuple[Upscale, str]:
    """Run a graph with every tensor rounded to the type that it declares; with what to call that.

    The function raises `NotFiniteError` where a tensor is not finite, whether or not that shows in the result.
    """

    def upscale(picture: Picture) -> Picture:
        for node, result in visit_tensors(model, picture[None]):
            if result.is_floating_point() and not bool(torch.isfinite(result).all()):
                raise NotFiniteError(f"{node.name} ({node.op_type}) has numbers that are infinite or undefined")
            last = result
        upscaled: Picture = last[0].numpy()
        return upscaled

    return upscale, "its declared types"


def check_pictures() -> list[Picture]:
    """Pictures to compare on: smooth, sharp, noisy, black and white, of odd sizes; the same every time."""
    random = np.random.default_rng(2021)
    rows, columns = np.mgrid[0:61, 0:83]
    waves = np.stack([np.sin(rows / 5 + k) * np.cos(columns / (3 + k)) for k in range(3)], axis=-1)
    photo_like = np.clip(127 + 90 * waves + random.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)
    noise = random.integers(0, 256, (37, 48, 3), dtype=np.uint8)
    board = np.repeat((((rows // 4 + columns // 4) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    # Every other pixel: the highest frequency there is, and the largest activations.
    fine = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[:40, :52, None], 3, axis=2)
    flat = [np.full((24, 32, 3), level, np.uint8) for level in (0, 255)]
    return [photo_like, noise, board, fine, *flat]
