"""How ``overnet eval`` upscales: by a backend or as a file declares it, whole or in quarters, once or turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overnet.errors import BackendError, InputError, one_line, printable, require
from overnet.evaluation.model_choice import EvaluatedModel
from overnet.evaluation.quarters import in_quarters
from overnet.evaluation.upscale_variants import self_ensemble
from overnet.files.engine_sidecar import TITLES
from overnet.types import Image, Upscale

# Instead of a backend's name: backends on a CPU compute FP16 files in FP32, and some INT8 ones with saturation.
DECLARED = "declared"


@dataclass(frozen=True)
class EvalOptions:
    """How images go through a model.

    Attributes:
        backend: a backend's name, ``"auto"`` or `DECLARED`.
        tile, threads: as `overnet.runtime.upscaler.Upscaler` takes them.
        quarters: in four overlapping quarters.
        self_ensemble: in eight orientations, averaged.
    """

    backend: str
    tile: int | None
    threads: int | None
    quarters: bool
    self_ensemble: bool

    def __str__(self) -> str:
        tiles = f"tiles of {self.tile}" if self.tile else "whole images"
        return f"{'quarters' if self.quarters else tiles}{', self-ensemble x8' if self.self_ensemble else ''}"


@dataclass(frozen=True)
class Method:
    """A model, loaded.

    Attributes:
        model: what is run.
        upscale: a low-resolution image to a high-resolution one.
        computed_by: what computes, in words.
        computes_in: the precision it computes in; None where that is the file's own.
        pop_notes: gives the remarks gathered since it was last asked, one line each.
    """

    model: EvaluatedModel
    upscale: Upscale
    computed_by: str
    computes_in: str | None
    pop_notes: Callable[[], list[str]]

    def __str__(self) -> str:
        return f"{self.model}, {self.computed_by}"


def load_method(
    model: EvaluatedModel, scale: int, way: EvalOptions, on_progress: Callable[[str, int, int], None]
) -> Method:
    """Load a model for a scale.

    Args:
        on_progress: is told what takes long later, when images are upscaled; see `overnet.runtime.upscaler.Upscaler`.

    Raises:
        InputError, BackendError, MissingDependency: see `overnet.runtime.upscaler.Upscaler`.
    """
    method = _declared(model, scale) if way.backend == DECLARED else _backend(model, scale, way, on_progress)
    upscale = method.upscale
    if way.quarters:
        upscale = in_quarters(upscale, scale)
    if way.self_ensemble:
        upscale = self_ensemble(upscale)
    return Method(model, upscale, method.computed_by, method.computes_in, method.pop_notes)


def _backend(
    model: EvaluatedModel, scale: int, way: EvalOptions, on_progress: Callable[[str, int, int], None]
) -> Method:
    from overnet.runtime.upscaler import Upscaler

    # An engine computes in what it was built in; a backend on a CPU in FP32, whatever a file's weights are.
    builds_engines = way.backend in TITLES or model.path.suffix.lower() == ".engine"
    upscaler = Upscaler(
        scale,
        model=model.path,
        backend=way.backend,
        precision=model.precision if builds_engines else model.runtime_precision,
        tile=way.tile,
        threads=way.threads,
        on_progress=on_progress,
    )
    backend = upscaler.backend_for(scale)
    computed_by = f"{backend.name} on {backend.device}"
    return Method(model, upscaler, computed_by, backend.precision, upscaler.pop_notes)


def _declared(model: EvaluatedModel, scale: int) -> Method:
    if model.path.suffix.lower() != ".onnx" or model.artifact is None or model.artifact.scale != scale:
        raise InputError(f"{printable(model.path)}: the backend {DECLARED} runs ONNX files, each at its own scale")
    if model.runtime_precision != "fp32":
        raise InputError(f"{printable(model.path)}: the backend {DECLARED} computes in the file's own precision")
    for module in ("torch", "onnx"):
        require(module, extra="export", purpose=f"the backend {DECLARED}")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from overnet.export.verify.onnx_file import NotFiniteError, in_declared_types

    try:
        run, computed_by = in_declared_types(onnx.load(model.path))
    except DecodeError as error:
        raise InputError(f"{printable(model.path)}: not an ONNX file, or a damaged one") from error

    def upscale(image: Image) -> Image:
        try:
            return run(image)
        except NotFiniteError as error:
            raise BackendError(f"{printable(model.path)}: {error}") from error
        except NotImplementedError as error:
            raise BackendError(f"{printable(model.path)}: {error} is in no graph of ours") from error
        except RuntimeError as error:  # PyTorch's, and above all when memory runs out
            raise BackendError(f"{printable(model.path)}: {one_line(error)}") from error

    return Method(model, upscale, f"in {computed_by}", None, list)
