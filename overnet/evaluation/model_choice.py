"""Which model file an evaluation runs at a scale, and which one in FP32 it is compared with. Needs no torch."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overnet.errors import ArtifactError, InputError, printable
from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import PRECISIONS, Artifact, read_artifact
from overnet.weights import bundled_folder

# What a backend can compute a file of another precision in.
RUNTIME_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model file at a scale.

    Attributes:
        path: a checkpoint, an ONNX file, an engine, or a folder that has no file for this very scale.
        artifact: what the file says of itself; None for checkpoints and folders.
        runtime_precision: what the backend is asked to compute in.
    """

    path: Path
    artifact: Artifact | None
    runtime_precision: str

    @property
    def precision(self) -> str:
        """The least exact of the file's precision and the one it is computed in."""
        stored = self.artifact.precision if self.artifact else "fp32"
        return max(stored, self.runtime_precision, key=PRECISIONS.index)

    def __str__(self) -> str:
        return f"{printable(self.path.name)} ({self.precision})"


def choose_model(model: Path, scale: int, precision: str | None) -> EvaluatedModel:
    """Choose the file to run.

    Args:
        model: a checkpoint, an ONNX file, an engine, or a folder of ONNX files.
        precision: one of `PRECISIONS`: of a folder's files, the one that is in it. Where there is none, FP32 and BF16
            are left to the backend to compute in. None: the most exact file, computed in FP32.

    Raises:
        InputError: there is no such file, or it is not in this precision and a backend cannot compute it in that.
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


def _from_folder(folder: Path, scale: int, precision: str | None) -> EvaluatedModel:
    files = [(path, artifact) for path, artifact in _onnx_files(folder) if artifact.scale == scale]
    exactness = [PRECISIONS.index(artifact.precision) for _, artifact in files]
    wanted = min(exactness, default=0) if precision is None else PRECISIONS.index(precision)
    found = [file for file, rank in zip(files, exactness, strict=True) if rank == wanted]
    if len(found) > 1:
        names = " and ".join(printable(path.name) for path, _ in found)
        raise InputError(
            f"{printable(folder)}: {names} are both for x{scale} in {PRECISIONS[wanted]}; name the one that is meant"
        )
    if found:
        return EvaluatedModel(*found[0], "fp32")
    if precision == "bf16" and files:
        return choose_model(_from_folder(folder, scale, "fp32").path, scale, precision)
    if precision not in (None, *RUNTIME_PRECISIONS) or files:
        raise InputError(
            f"{printable(folder)}: no ONNX file for x{scale} in {precision}; overnet export makes such files"
        )
    return EvaluatedModel(folder, None, precision or "fp32")


def is_folder(model: Path) -> bool:
    """Whether a model is a folder of models.

    Raises:
        InputError: there is nothing of this name, or no file could have it.
    """
    try:
        mode = model.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(model)}: {getattr(error, 'strerror', None) or error}") from error
    return stat.S_ISDIR(mode)


def describe(model: Path) -> Artifact | None:
    """What an ONNX file or an engine says of itself; None for a checkpoint.

    Raises:
        ArtifactError: it is broken or not one of ours.
    """
    suffix = model.suffix.lower()
    if suffix == ".engine":
        return read_sidecar(model).artifact
    return read_artifact(model) if suffix == ".onnx" else None


def same_weights_in_fp32(model: EvaluatedModel) -> EvaluatedModel | None:
    """Find what tells how much a model's precision costs: the same weights at the same scale in FP32.

    It is the file itself where only the backend computes in less; else one beside it, or the bundled one.

    Returns:
        None where the model is in FP32 itself, or there is no such file.
    """
    if model.precision == "fp32":
        return None
    if model.artifact is None or model.artifact.precision == "fp32":
        return EvaluatedModel(model.path, model.artifact, "fp32")
    return fp32_file(model.artifact.weights_sha256, model.artifact.scale, model.path.parent)


def fp32_file(weights_sha256: str, scale: float, folder: Path) -> EvaluatedModel | None:
    """Find an ONNX file in FP32 with certain weights and scale in a folder or among the bundled ones."""
    wanted = weights_sha256, scale, "fp32"
    for path, artifact in (*_onnx_files(folder), *_onnx_files(bundled_folder())):
        if (artifact.weights_sha256, artifact.scale, artifact.precision) == wanted:
            return EvaluatedModel(path, artifact, "fp32")
    return None


def _onnx_files(folder: Path) -> Iterator[tuple[Path, Artifact]]:
    """The ONNX files of ours in a folder, by name; others may lie beside them."""
    for path in sorted(folder.glob("*.onnx")):
        with suppress(ArtifactError):
            yield path, read_artifact(path)
