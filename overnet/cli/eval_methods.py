"""The methods that ``overnet eval`` measures: a model in a backend, or in the types that its file declares."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from overnet.cli.options import EvalOptions
from overnet.errors import BackendError, InputError, one_line, printable, require
from overnet.evaluation.model_choice import EvaluatedModel
from overnet.evaluation.upscale_variants import in_quarters, self_ensemble
from overnet.files.engine_sidecar import TITLES
from overnet.types import Image, Progress, Upscale


@dataclass(frozen=True)
class Method:
    """A model that is loaded.

    Attributes:
        upscale: returns the high-resolution image of a low-resolution one.
        computed_by: backend and device, for people.
        computes_in: the precision of the arithmetic; None for the file's own.
        pop_notes: returns and clears the remarks, one line each.
    """

    model: EvaluatedModel
    upscale: Upscale
    computed_by: str
    computes_in: str | None
    pop_notes: Callable[[], list[str]]

    def __str__(self) -> str:
        return f"{self.model}, {self.computed_by}"


def load_method(model: EvaluatedModel, scale: float, options: EvalOptions, on_progress: Progress) -> Method:
    """Load a model for a scale.

    Args:
        on_progress: told of work that takes long when images are upscaled; see `overnet.runtime.upscaler.Upscaler`.

    Raises:
        InputError, BackendError, MissingDependency: see `overnet.runtime.upscaler.Upscaler`.
    """
    method = _declared(model, scale) if options.is_declared else _in_backend(model, scale, options, on_progress)
    upscale = method.upscale
    if options.quarters:
        if scale != int(scale):
            raise InputError(f"scale {scale:g}: quarters of an image meet on whole pixels at whole scales only")
        upscale = in_quarters(upscale, int(scale))
    if options.self_ensemble:
        upscale = self_ensemble(upscale)
    return replace(method, upscale=upscale)


def _in_backend(model: EvaluatedModel, scale: float, options: EvalOptions, on_progress: Progress) -> Method:
    from overnet.runtime.upscaler import Upscaler

    # An engine computes in the precision it was built in; a CPU backend in FP32, whatever the file's weights are.
    builds_engines = options.backend in TITLES or model.path.suffix.lower() == ".engine"
    upscaler = Upscaler(
        scale,
        model=model.path,
        backend=options.backend,
        precision=model.precision if builds_engines else model.runtime_precision,
        tile=options.tile,
        threads=options.threads,
        on_progress=on_progress,
    )
    backend = upscaler.backend_for(scale)
    return Method(model, upscaler, f"{backend.name} on {backend.device}", backend.precision, upscaler.pop_notes)


def _declared(model: EvaluatedModel, scale: float) -> Method:
    if model.path.suffix.lower() != ".onnx" or model.artifact is None or model.artifact.scale != scale:
        raise InputError(f"{printable(model.path)}: the backend declared runs ONNX files, each at its own scale")
    if model.runtime_precision != "fp32":
        raise InputError(f"{printable(model.path)}: the backend declared computes in the file's own precision")
    for module in ("torch", "onnx"):
        require(module, extra="export", purpose="the backend declared")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from overnet.export.verify.onnx_file import NotFiniteError, in_declared_types

    try:
        loaded = onnx.load(model.path)
        if model.artifact.foreign is not None:
            from overnet.export.foreign.declared import in_declared

            upscale_foreign, computed_by = in_declared(loaded)
            return Method(model, upscale_foreign, f"in {computed_by}", None, list)
        run, computed_by = in_declared_types(loaded)
    except DecodeError as error:
        raise InputError(f"{printable(model.path)}: not an ONNX file, or a damaged one") from error

    def upscale(image: Image) -> Image:
        try:
            return run(image)
        except NotFiniteError as error:
            raise BackendError(f"{printable(model.path)}: {error}") from error
        except NotImplementedError as error:
            raise BackendError(f"{printable(model.path)}: {error} is not in graphs of this program") from error
        except RuntimeError as error:  # raised by PyTorch, most often when memory runs out
            raise BackendError(f"{printable(model.path)}: {one_line(error)}") from error

    return Method(model, upscale, f"in {computed_by}", None, list)
