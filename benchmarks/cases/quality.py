"""The quality of a method's images: PSNR to the network's exact result, and to real images.

The exact result is computed in PyTorch if torch is installed and the checkpoint of the model's weights is known, as it
is for the bundled models; otherwise from an FP32 ONNX file with the same weights. The figures say which.
"""

import math
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnet.benchmarks.cases.ground_truth import quality_figures, read_ground_truth
from overnet.benchmarks.cases.network import checkpoint_of, load_network
from overnet.benchmarks.results import QualityFigures
from overnet.errors import InputError, MissingDependency, printable, require
from overnet.evaluation.model_choice import choose_model, fp32_file
from overnet.files.atomic import atomic_write
from overnet.files.engine_sidecar import read_sidecar
from overnet.imaging.metrics import largest_difference, psnr
from overnet.imaging.moving_photographs import image as workload_image
from overnet.runtime.backends.base import BackendOptions, model_kind
from overnet.runtime.backends.registry import BACKENDS, installed, installed_version
from overnet.types import Image, Upscale
from overnet.weights import bundled_folder

# The largest height and width of the compared image: PyTorch takes 15 kB for every input pixel.
_LARGEST_COMPARED_SIDE = 320


@dataclass(frozen=True)
class Reference:
    """An image and the network's exact result for it.

    Attributes:
        image: h x w x 3 uint8 RGB.
        exact: round(h * scale) x round(w * scale) x 3 uint8 RGB.
        words: what computed the result.
    """

    image: Image
    exact: Image
    words: str


def check_image(width: int, height: int) -> Image:
    """Return the image for the comparison with the exact result: of the case's size, each side at most 320 pixels.

    Engines for one size only are thus compared at that size, as far as PyTorch's memory allows.
    """
    return workload_image(min(width, _LARGEST_COMPARED_SIDE), min(height, _LARGEST_COMPARED_SIDE))


def make_reference(image: Image, scale: int, model: Path | None) -> Reference:
    """Compute the network's exact result for an image.

    Args:
        image: h x w x 3 uint8 RGB.
        model: an ONNX file, an engine, a checkpoint, or a folder of these; None for the bundled one.

    Raises:
        InputError: there is no such model, or neither a checkpoint nor an FP32 ONNX file of its weights is known.
        MissingDependency: the model is a checkpoint, and torch is not installed.
    """
    try:
        checkpoint = checkpoint_of(model, scale)
        torch = require("torch", extra="torch", purpose="the exact result")
        from overnet.network.model import reference

        # On the CPU, because a GPU may compute convolutions in TF32.
        exact = reference(load_network(checkpoint, scale), image, scale)
        words = f"PyTorch {torch.__version__.partition('+')[0]} fp32"
    except (InputError, MissingDependency):
        file = fp32_onnx(model, scale)
        if file is None:
            if model is not None and model.is_file() and model_kind(model) == "checkpoint":
                raise
            name = printable(model) if model else "the bundled model"
            raise InputError(
                f"{name}: its exact result at x{scale} cannot be computed; "
                "put the FP32 ONNX file of its weights beside it"
            ) from None
        exact, words = _in_onnx(file, image, scale)
    return Reference(image, exact, words)


def _in_onnx(file: Path, image: Image, scale: int) -> tuple[Image, str]:
    kinds = [BACKENDS[name] for name in ("openvino", "onnxruntime") if installed(BACKENDS[name])]
    if not kinds:
        raise MissingDependency("the exact result needs torch, openvino or onnxruntime: pip install openvino")
    with closing(kinds[0].load(file, scale, BackendOptions(precision="fp32"))) as backend:
        exact: Image = backend.upscale(image[None])[0]
    return exact, f"{kinds[0].name} {installed_version(kinds[0])} fp32, from {printable(file.name)}"


def fp32_onnx(model: Path | None, scale: int) -> Path | None:
    """Find an FP32 ONNX file with a model's weights and scale: the model itself, one beside it, or a bundled one.

    Args:
        model: see `make_reference`.

    Returns:
        None if there is no such file, as for a checkpoint.

    Raises:
        InputError: there is no such model, or it is broken.
    """
    chosen = choose_model(model or bundled_folder(), scale, None)
    path, artifact = chosen.path, chosen.artifact
    if artifact is None and model is not None:  # a checkpoint, or a folder of engines
        engines = ((engine, read_sidecar(engine).artifact) for engine in sorted(model.glob("*.engine")))
        path, artifact = next((each for each in engines if each[1].scale == scale), (path, None))
    if artifact is None:
        return None
    if path.suffix.lower() == ".onnx" and (artifact.scale, artifact.precision) == (scale, "fp32"):
        return path
    found = fp32_file(artifact.weights_sha256, scale, path.parent)
    return None if found is None else found.path


def write_reference(reference: Reference, path: Path) -> None:
    """Write a reference as NumPy's ``.npz``, replacing the file, so that it is computed once for many cases.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_write(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(file, image=reference.image, exact=reference.exact, words=np.array(reference.words))


def read_reference(path: Path) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        InputError: the file cannot be read, or holds no reference.
    """
    try:
        with np.load(path, allow_pickle=False) as entries:
            image, exact, words = entries["image"], entries["exact"], str(entries["words"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{printable(path)}: not a reference image with its exact result") from error
    if any(each.ndim != 3 or each.shape[2] != 3 or each.dtype != np.uint8 for each in (image, exact)):
        raise InputError(f"{printable(path)}: not a reference image with its exact result")
    return Reference(image, exact, words)


def against_reference(upscale: Upscale, reference: Reference) -> QualityFigures:
    """Compare a method's image with the network's exact result, over all channels and including the border.

    Args:
        upscale: h x w x 3 uint8 RGB to scale*h x scale*w x 3 uint8 RGB.

    Raises:
        ValueError: the method's result has another size.
    """
    upscaled = upscale(reference.image)
    decibels = psnr(reference.exact, upscaled, border=0)
    return QualityFigures(
        reference=reference.words,
        reference_psnr_db=decibels if math.isfinite(decibels) else None,
        largest_difference_levels=largest_difference(reference.exact, upscaled),
    )


def quality_of(
    upscale: Upscale, scale: int, *, reference: Reference | None, ground_truth: Path | None
) -> QualityFigures:
    """Measure a method's quality against the exact result and the real images.

    Args:
        upscale: see `against_reference`.
        reference: None for methods that are not the network.
        ground_truth: see `overnet.benchmarks.cases.ground_truth.read_ground_truth`.

    Raises:
        InputError: the folder of real images is missing or unusable.
    """
    figures = quality_figures(upscale, read_ground_truth(ground_truth, scale))
    if reference is None:
        return figures
    return against_reference(upscale, reference).with_ground_truth_of(figures)
