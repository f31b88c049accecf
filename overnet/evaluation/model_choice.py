"""Choose the model file to evaluate at a scale, and the FP32 file it is compared with. Needs no torch."""

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overnet.errors import ArtifactError, InputError, file_errors, printable
from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import PRECISIONS, Artifact, most_exact, read_artifact
from overnet.weights import MODEL_NAMES, bundled_folder

# The precisions that a backend can compute an FP32 file in.
RUNTIME_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model file at a scale.

    Attributes:
        path: a checkpoint, an ONNX file, an engine, or a folder that has no file for exactly this scale.
        artifact: the file's metadata; None for checkpoints and folders.
        runtime_precision: the precision that the backend is asked to compute in.
    """

    path: Path
    artifact: Artifact | None
    runtime_precision: str

    @property
    def precision(self) -> str:
        """The less exact of the file's precision and the one it is computed in."""
        stored = self.artifact.precision if self.artifact else "fp32"
        return max(stored, self.runtime_precision, key=PRECISIONS.index)

    def __str__(self) -> str:
        return f"{printable(self.path.name)} ({self.precision})"


def choose_model(model: Path, scale: float, precision: str | None) -> EvaluatedModel:
    """Choose the file to run.

    Args:
        model: a checkpoint, an ONNX file, an engine, or a folder of ONNX files.
        precision: one of `PRECISIONS`; of a folder, the file in this precision. Where there is none, the backend
            computes in FP32 or BF16 if one of these is asked for. None: the most exact file, computed in FP32.

    Raises:
        InputError: there is no such file, or it is in another precision and a backend cannot convert it.
    """
    if is_folder(model):
        return _from_folder(model, scale, precision)
    artifact = describe(model)
    stored = artifact.precision if artifact else "fp32"
    if precision is None or precision == stored:
        return EvaluatedModel(model, artifact, "fp32")
    if stored != "fp32" or precision not in RUNTIME_PRECISIONS:
        raise InputError(f"{printable(model)} is in {stored}, not in {precision}; overnet export makes such files")
    return EvaluatedModel(model, artifact, precision)


def _from_folder(folder: Path, scale: float, precision: str | None) -> EvaluatedModel:
    files = [file for file in _onnx_files(folder) if file[1].scale == scale]
    found = most_exact(folder, [file for file in files if precision in (None, file[1].precision)])
    if found:
        return EvaluatedModel(*found[scale], "fp32")
    if precision == "bf16" and files:
        return choose_model(_from_folder(folder, scale, "fp32").path, scale, precision)
    if precision not in (None, *RUNTIME_PRECISIONS) or files:
        raise InputError(
            f"{printable(folder)}: no ONNX file for x{scale:g} in {precision}; overnet export makes such files"
        )
    return EvaluatedModel(folder, None, precision or "fp32")


def is_folder(model: Path) -> bool:
    """Return whether a model is a folder of models.

    Raises:
        InputError: the path does not exist or is not valid.
    """
    with file_errors(InputError, model):
        return stat.S_ISDIR(model.stat().st_mode)


def describe(model: Path) -> Artifact | None:
    """Return the metadata of an ONNX file or an engine; None for a checkpoint.

    Raises:
        ArtifactError: it is broken, or was not made by overnet export.
    """
    suffix = model.suffix.lower()
    if suffix == ".engine":
        return read_sidecar(model).artifact
    return read_artifact(model) if suffix == ".onnx" else None


def same_weights_in_fp32(model: EvaluatedModel) -> EvaluatedModel | None:
    """Find the FP32 model with the same weights and scale, to measure what a model's precision costs.

    This is the same file where only the backend computes in a lower precision; else one in its folder, or bundled.

    Returns:
        None where the model is in FP32 itself, or there is no such file.
    """
    if model.precision == "fp32":
        return None
    if model.artifact is None or model.artifact.precision == "fp32":
        return EvaluatedModel(model.path, model.artifact, "fp32")
    return fp32_file(model.artifact.weights_sha256, model.artifact.scale, model.path.parent)


def fp32_file(weights_sha256: str, scale: float, folder: Path) -> EvaluatedModel | None:
    """Find an ONNX file in FP32 with certain weights and scale in a folder or among the bundled ones.

    The bundled models' weights for INT8 were trained on from those in FP32, which take their place.
    """
    for place in (folder, *map(bundled_folder, MODEL_NAMES)):
        files = [file for file in _onnx_files(place) if file[1].scale == scale]
        has_weights = any(artifact.weights_sha256 == weights_sha256 for _, artifact in files)
        is_bundled = any(place.samefile(bundled_folder(name)) for name in MODEL_NAMES if place.exists())
        for path, artifact in files:
            same = artifact.weights_sha256 == weights_sha256 or (is_bundled and has_weights)
            if same and artifact.precision == "fp32":
                return EvaluatedModel(path, artifact, "fp32")
    return None


def _onnx_files(folder: Path) -> Iterator[tuple[Path, Artifact]]:
    """Yield the ONNX files in a folder that overnet export made, sorted by name."""
    for path in sorted(folder.glob("*.onnx")):
        with suppress(ArtifactError):
            yield path, read_artifact(path)
