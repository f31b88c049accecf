"""The upscaler of a run: the options for it, and the model that they choose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overnet.cli.common import print_status
from overnet.cli.options import (
    HARDWARE,
    SIZE,
    BackendOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ProviderOption,
    SlotsOption,
    ThreadsOption,
    TileOption,
)
from overnet.cli.progress import ProgressDisplay
from overnet.cli.run.stream_options import parse_rate
from overnet.errors import printable

if TYPE_CHECKING:
    from overnet.runtime.upscaler import Upscaler


@dataclass(frozen=True)
class UpscalerOptions:
    """Options that `overnet.runtime.upscaler.Upscaler` takes under the same names."""

    height: Annotated[int | None, SIZE(metavar="PIXELS", help="Height of the result, instead of a scale.")] = None
    width: Annotated[int | None, SIZE(metavar="PIXELS", help="Width of the result, instead of a scale.")] = None
    model: ModelOption = None
    backend: BackendOption = "auto"
    precision: PrecisionOption = None
    device: DeviceOption = 0
    provider: ProviderOption = "cpu"
    slots: SlotsOption = 3
    zero_copy: Annotated[
        bool | None,
        HARDWARE(
            "--zero-copy/--no-zero-copy",
            help="Let the GPU work on the host's memory without copies. Default: only where both share it (Jetson).",
        ),
    ] = None
    cuda_graphs: Annotated[
        bool, HARDWARE("--cuda-graphs/--no-cuda-graphs", help="Replay the GPU's work for a frame as one CUDA graph.")
    ] = True
    tile: TileOption = None
    threads: ThreadsOption = None


def upscaler_maker(
    upscaling: UpscalerOptions, scale: float | None, fps: str | None, display: ProgressDisplay, *, is_live: bool
) -> Callable[[], Upscaler]:
    """Return a function that loads the model, or for a rate of frames an upscaler that chooses it."""
    from overnet.runtime.upscaler import Upscaler

    options = {**_for_here(upscaling, quiet=display.quiet), "on_progress": display.announce}
    if fps is None and (upscaling.model is not None or not is_live):
        return functools.partial(Upscaler, default_scale(upscaling) if scale is None else scale, **options)
    if options.pop("model") is not None:
        raise typer.BadParameter("--fps chooses among the bundled models, and --model names one: leave out one of them")
    from overnet.runtime.paced_upscaler import PacedUpscaler

    return functools.partial(
        PacedUpscaler,
        2 if scale is None else scale,
        rate=None if fps is None else parse_rate("--fps", fps),
        on_choice=functools.partial(print_status, quiet=display.quiet),
        **options,
    )


def _for_here(options: UpscalerOptions, *, quiet: bool) -> dict[str, Any]:
    """Return the options, with FP32 in place of INT8 where the CPU has no fast INT8."""
    from overnet.evaluation.model_choice import fp32_file
    from overnet.files.onnx_metadata import read_artifact
    from overnet.runtime.backends.registry import choose_backends
    from overnet.system.environment import has_fast_int8

    model, values = options.model, vars(options)
    is_file = model is not None and model.suffix.lower() == ".onnx" and model.is_file()
    artifact = read_artifact(model) if model is not None and is_file else None
    is_int8 = options.precision == "int8" if artifact is None else artifact.precision == "int8"
    if (
        not is_int8
        or options.provider != "cpu"
        or choose_backends(options.backend, "onnx")[0].on_gpu
        or has_fast_int8()
    ):
        return values
    if artifact is None or model is None:
        print_status("this CPU has no fast INT8 arithmetic: FP32 files are used", quiet=quiet)
        return {**values, "precision": None}
    exact = fp32_file(artifact.weights_sha256, artifact.scale, model.parent)
    slow = f"{printable(str(model))}: this CPU has no fast INT8 arithmetic"
    if exact is None:
        print_status(f"{slow}, and there is no FP32 file of these weights beside it", quiet=quiet)
        return values
    print_status(f"{slow}: {printable(str(exact.path))} is used, in FP32", quiet=quiet)
    return {**values, "model": exact.path, "precision": None}


def default_scale(options: UpscalerOptions) -> float:
    """Return the scale of an ONNX file or an engine; 2 for models with several scales."""
    from overnet.evaluation.model_choice import describe

    model = options.model
    # The upscaler reports a model that is missing.
    sized = options.height is not None or options.width is not None
    if model is not None and not sized and model.suffix.lower() in (".onnx", ".engine") and model.exists():
        artifact = describe(model)
        if artifact is not None:
            return artifact.scale
    return 2
