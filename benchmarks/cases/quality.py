"""How good a method's images are: by the network's exact result, and by real images.

The exact result is computed in PyTorch where torch is installed and the checkpoint of the model's weights is known, as
that of the bundled models is; else from the same weights in an ONNX file in FP32, and the words say so.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overnet.benchmarks.cases.ground_truth import quality_figures, read_ground_truth, upscaled_by
from overnet.benchmarks.cases.network import checkpoint_of, load_network
from overnet.benchmarks.cases.workload import image as workload_image
from overnet.benchmarks.results import QualityFigures
from overnet.errors import ArtifactError, InputError, MissingDependency, require
from overnet.evaluation.model_choice import choose_model
from overnet.files.atomic import atomic_write, printable
from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import Artifact, read_artifact
from overnet.imaging.metrics import largest_difference, psnr
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
        words: what computed it.
    """

    image: Image
    exact: Image
    words: str


def check_image(width: int, height: int) -> Image:
    """The image to compare on for cases of a size: of that very size, or of 320 pixels where a side is longer.

    Engines for one size only are so compared on what they are made for, as far as PyTorch's memory allows.
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
        exact, words = _in_torch(checkpoint, image, scale)
    except (InputError, MissingDependency):
        file = fp32_onnx(model, scale)
        if file is None:
            if model is not None and model.is_file() and model_kind(model) == "checkpoint":
                raise
            name = printable(model) if model else "the bundled model"
            raise InputError(
                f"{name}: nothing tells its exact result at x{scale}; put the FP32 ONNX file of its weights beside it"
            ) from None
        exact, words = _in_onnx(file, image, scale)
    return Reference(image, exact, words)


def _in_torch(checkpoint: Path, image: Image, scale: int) -> tuple[Image, str]:
    torch = require("torch", extra="torch", purpose="the exact result")
    from overnet.network.reference import reference

    # Always on the CPU: on a GPU, convolutions may be computed in TF32.
    exact = reference(load_network(checkpoint, scale), image, scale)
    return exact, f"PyTorch {torch.__version__.partition('+')[0]} fp32"


def _in_onnx(file: Path, image: Image, scale: int) -> tuple[Image, str]:
    kinds = [BACKENDS[name] for name in ("openvino", "onnxruntime") if installed(BACKENDS[name])]
    if not kinds:
        raise MissingDependency("the exact result needs torch, openvino or onnxruntime: pip install openvino")
    backend = kinds[0].load(file, scale, BackendOptions(precision="fp32"))
    try:
        exact: Image = backend.upscale(image[None])[0]
    finally:
        backend.close()
    return exact, f"{kinds[0].name} {installed_version(kinds[0])} fp32, from {printable(Path(file.name))}"


def fp32_onnx(model: Path | None, scale: int) -> Path | None:
    """The ONNX file in FP32 with a model's weights at a scale: itself, one beside it, or a bundled one.

    Args:
        model: as for `make_reference`.

    Returns:
        None where there is no such file, as for a checkpoint.

    Raises:
        InputError: there is no such model, or it is broken.
    """
    described = _described(model or bundled_folder(), scale)
    if described is None:
        return None
    path, artifact = described
    for candidate in (path, *sorted(path.parent.glob("*.onnx")), *sorted(bundled_folder().glob("*.onnx"))):
        if candidate.suffix.lower() != ".onnx":
            continue
        with suppress(ArtifactError):  # others may lie beside it
            found = read_artifact(candidate)
            same = found.weights_sha256 == artifact.weights_sha256 and found.scale == scale
            if same and found.precision == "fp32":
                return candidate
    return None


def _described(model: Path, scale: int) -> tuple[Path, Artifact] | None:
    """The file of a model for a scale with what it says of itself; None for a checkpoint."""
    chosen = choose_model(model, scale, None)
    if chosen.artifact is not None:
        return chosen.path, chosen.artifact
    return next(((path, artifact) for path, artifact in _engines(model) if artifact.scale == scale), None)


def _engines(folder: Path) -> Iterator[tuple[Path, Artifact]]:
    for path in sorted(folder.glob("*.engine")):
        yield path, read_sidecar(path).artifact


def write_reference(reference: Reference, path: Path) -> None:
    """Write a reference as NumPy's ``.npz``, so that it is computed once for many cases; replaces what is there.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_write(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(file, image=reference.image, exact=reference.exact, words=np.array(reference.words))


def read_reference(path: Path) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        InputError: it cannot be read, or is no such file.
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
    """How far a method is from the network's exact result, over all channels and without leaving out a border.

    Args:
        upscale: h x w x 3 uint8 to scale*h x scale*w x 3 uint8.

    Raises:
        ValueError: the method's result is of another size.
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
    """All that is to be said of how good a method is.

    Args:
        upscale: as for `against_reference`.
        reference: None for methods that are not the network.
        ground_truth: a folder of real images as `overnet.benchmarks.cases.ground_truth.read_ground_truth` takes it;
            None for the package's own.

    Raises:
        InputError: the folder is not as it should be.
    """
    real = read_ground_truth(ground_truth, scale)
    figures = quality_figures(upscaled_by(upscale, real), real)
    if reference is None:
        return figures
    near = against_reference(upscale, reference)
    return replace(
        near,
        ground_truth_psnr_db=figures.ground_truth_psnr_db,
        ground_truth_ssim=figures.ground_truth_ssim,
        ground_truth=figures.ground_truth,
    )
