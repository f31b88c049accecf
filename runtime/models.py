"""The model files to choose from, by scale."""

from pathlib import Path

from overnet.errors import InputError, no_such_file
from overnet.files.engine_sidecar import read_sidecar
from overnet.files.onnx_metadata import most_exact, read_artifact
from overnet.runtime.backends.base import model_kind
from overnet.runtime.backends.registry import BackendKind, choose_backends
from overnet.system.converted_model import own_model
from overnet.weights import MODEL_NAMES, checkpoint_of_folder, model_path


class Models:
    """The files to choose from: one checkpoint for all scales, or ONNX files or engines by scale."""

    def __init__(self, *, checkpoint: Path | None = None, files: dict[float, Path] | None = None) -> None:
        self.checkpoint, self._files = checkpoint, files or {}

    def nearest(self, scale: float) -> float:
        """Return the scale of the model to use: this one, the nearest larger one, or the largest that there is."""
        if self.checkpoint is not None:
            return scale
        return min((known for known in self._files if known >= scale - 1e-9), default=max(self._files))

    def path(self, scale: float) -> Path:
        """Return the model file for a scale that `nearest` returned."""
        return self.checkpoint or self._files[scale]


def find_models(model: str | Path | None, backend: str, precision: str | None) -> list[tuple[BackendKind, Models]]:
    """Return the backends to try, in this order, each with the models that it is to run.

    Args:
        model: a file, where an ONNX file of another program is converted; a folder of ONNX files or engines; a bundled
            model's name; or None for the best of these.
        backend: a backend's name, or ``"auto"``.
        precision: of the engine or ONNX file to choose from several in a folder; None chooses the most exact, as for
            scales that have no ONNX file in the precision.

    Raises:
        InputError: there is no such file or folder, nothing in it is for the backend, or two files suit equally.
        ArtifactError: a file is broken, or not made by OverNet.
        MissingDependency: no library that runs it is installed.
    """
    path = own_model(model_path(model, checkpoint=backend == "torch"))
    if backend == "torch":
        path = checkpoint_of_folder(path) or path
    if path.is_dir():
        return _in_folder(path, backend, precision)
    if not path.exists():
        raise no_such_file(path, MODEL_NAMES)
    kind = model_kind(path)
    if kind == "checkpoint":
        return [(found, Models(checkpoint=path)) for found in choose_backends(backend, kind)]
    if kind == "engine":
        sidecar = read_sidecar(path)
        found_kinds = choose_backends(backend, kind, runtime=sidecar.environment.runtime)
        return [(found, Models(files={sidecar.artifact.scale: path})) for found in found_kinds]
    return [(found, Models(files={read_artifact(path).scale: path})) for found in choose_backends(backend, kind)]


def _in_folder(folder: Path, backend: str, precision: str | None) -> list[tuple[BackendKind, Models]]:
    files = [(path, read_artifact(path)) for path in sorted(folder.glob("*.onnx"))]
    preferred = {artifact.scale for _, artifact in files if artifact.precision == precision}
    files = [file for file in files if file[1].precision == precision or file[1].scale not in preferred]
    sidecars = [(path, read_sidecar(path)) for path in sorted(folder.glob("*.engine"))]
    choices = []
    for kind in choose_backends(backend, "onnx"):
        engines = [
            (path, sidecar.artifact)
            for path, sidecar in sidecars
            if sidecar.environment.runtime == kind.name and precision in (None, sidecar.artifact.precision)
        ]
        if engines or files:
            found = most_exact(folder, engines or files)
            choices.append((kind, Models(files={scale: path for scale, (path, _) in found.items()})))
    if not choices:
        raise InputError(f"{folder}: a folder without ONNX files")
    return choices
