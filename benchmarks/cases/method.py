"""A backend with its model, loaded for one case and ready to be measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from overnet.benchmarks.cases.network import load_network, multiply_accumulates_per_pixel
from overnet.benchmarks.cases.quality import fp32_onnx
from overnet.benchmarks.cases.run import CaseRequest
from overnet.errors import InputError, MissingDependency, import_library, printable, require
from overnet.evaluation.model_choice import choose_model
from overnet.files.onnx_metadata import read_artifact
from overnet.runtime.backends.base import model_kind
from overnet.runtime.backends.registry import BACKENDS
from overnet.runtime.backends.stream import UpscaleStream
from overnet.runtime.models import find_models
from overnet.runtime.upscaler import Upscaler
from overnet.system.cuda_device import cuda_device_count
from overnet.types import ImageBatch, Progress
from overnet.weights import bundled_folder, checkpoint_of_folder

if TYPE_CHECKING:
    from overnet.runtime.backends.trt.slot import StageTimes


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Method:
    """A method that is loaded and ready.

    Attributes:
        device: the name of the device that computes.
        model: the model's file name; empty if there is none.
        upscale: a batch of the case's size, N x H x W x 3 uint8, to N x scale*H x scale*W x 3 uint8.
        upscale_any: one image of any size, h x w x 3 uint8, to scale*h x scale*w x 3 uint8.
        upscale_timed: as `upscale`, but returns the GPU's times; None without a GPU.
        open_stream: opens a stream for images of the case's size; returns None if a stream would not be faster.
        activation_bytes: returns the engine's own figure for its intermediate results; None without an engine.
        multiply_accumulates: returns those of one image of the case's size; None if unknown.
        pop_notes: returns and clears the remarks since the last call, one line each.
        close: releases all resources.
    """

    device: str
    model: str
    upscale: Callable[[ImageBatch], ImageBatch]
    upscale_any: Callable[[ImageBatch], ImageBatch]
    upscale_timed: Callable[[ImageBatch], StageTimes] | None = None
    open_stream: Callable[[], UpscaleStream | None] = _nothing
    activation_bytes: Callable[[], int | None] = _nothing
    multiply_accumulates: Callable[[], float | None] = _nothing
    pop_notes: Callable[[], list[str]] = list
    close: Callable[[], None] = _nothing


# Loads the method, reporting steps that take long.
Load = Callable[[Progress], Method]


def on_gpu(backend: str, provider: str) -> bool:
    """Whether a backend computes on an NVIDIA GPU on this machine.

    Args:
        provider: ONNX Runtime's; ignored for other backends.
    """
    if backend == "onnxruntime":
        return provider != "cpu"
    # PyTorch uses a GPU if it finds one.
    return (backend in BACKENDS and BACKENDS[backend].on_gpu) or (backend == "torch" and cuda_device_count() > 0)


def import_backend(request: CaseRequest) -> Load:
    """Import the libraries that a case's backend needs, so that later measurements are of the model alone.

    Returns:
        A function that loads the model; it raises as `overnet.runtime.upscaler.Upscaler` does, and an `InputError` if
        the model is for another scale.

    Raises:
        InputError: there is no such backend.
    """
    kind = BACKENDS.get(request.case.method)
    if kind is None:
        raise InputError(f"there is no backend {request.case.method!r}; choose from {', '.join(BACKENDS)}")
    for module in (kind.module, *(["pycuda.driver"] if kind.on_gpu else [])):
        with suppress(ImportError, OSError):  # loading says what is missing, and how to get it
            import_library(module)
    return partial(_loaded, request)


def open_upscaler(request: CaseRequest, on_progress: Progress | None = None) -> Upscaler:
    """Load a case's backend with the model for its precision.

    Raises:
        OverNetError: see `overnet.runtime.upscaler.Upscaler`.
    """
    model, precision = _chosen(request)
    return Upscaler(
        request.case.scale,
        model=model,
        backend=request.case.method,
        precision=precision,
        threads=request.threads,
        device=request.device,
        # Backends other than ONNX Runtime accept only the default.
        provider=request.provider if request.case.method == "onnxruntime" else "cpu",
        slots=request.slots,
        on_progress=on_progress,
    )


def _loaded(request: CaseRequest, on_progress: Progress) -> Method:
    case = request.case
    model, precision = _chosen(request)
    upscaler = open_upscaler(request, on_progress)
    backend = upscaler.backend_for(case.scale)
    if backend.scale != case.scale:
        raise InputError(f"there is no model for x{case.scale}; the nearest is for x{backend.scale:g}")
    backend.prepare(case.height, case.width)
    kind, models = find_models(model, case.method, precision)[0]
    path = models.path(models.nearest(case.scale))
    remarks: list[str] = []
    if case.precision not in (backend.precision, "int8"):
        remarks.append(f"{kind.name} computes {printable(path.name)} in {backend.precision}, not {case.precision}")

    whole = backend.tile_for(case.height, case.width) is None
    return Method(
        device=backend.device,
        model=printable(path.name),
        upscale=backend.upscale if whole else lambda images: np.stack([upscaler(each) for each in images]),
        upscale_any=upscaler,
        upscale_timed=getattr(backend, "upscale_timed", None) if whole else None,
        open_stream=(lambda: backend.open_stream(case.height, case.width)) if whole else _nothing,
        activation_bytes=lambda: getattr(backend, "activation_memory_bytes", None),
        multiply_accumulates=lambda: _multiply_accumulates(path, case.scale, case.pixels),
        pop_notes=lambda: [*remarks, *upscaler.pop_notes()],
        close=upscaler.close,
    )


def _chosen(request: CaseRequest) -> tuple[Path | None, str]:
    """Return the model for a case's precision, and the precision to request from the backend."""
    case, model = request.case, request.model
    if BACKENDS[case.method].on_gpu:
        return model, case.precision  # the backend chooses among a folder's engines, and builds missing ones
    if case.method == "torch":
        model = checkpoint_of_folder(model or bundled_folder()) or model
    if case.method == "onnxruntime" and request.provider != "cpu":
        # The provider computes in the file's own precision, or an FP32 file in a lower one where it can.
        with suppress(InputError):
            return choose_model(model or bundled_folder(), case.scale, case.precision).path, case.precision
        return model, case.precision
    chosen = choose_model(model or bundled_folder(), case.scale, case.precision)
    return chosen.path, chosen.runtime_precision


def _multiply_accumulates(path: Path, scale: int, pixels: int) -> float | None:
    """Count the multiply-accumulates of one image; None if onnx is not installed or the graph is unknown."""
    if model_kind(path) == "checkpoint":
        return multiply_accumulates_per_pixel(load_network(path, scale), scale) * pixels
    # An engine's arithmetic is that of the ONNX file with the same weights.
    file = path if model_kind(path) == "onnx" else fp32_onnx(path, scale)
    if file is None:
        return None
    foreign = read_artifact(file).foreign
    if foreign is not None:
        counted = foreign.multiply_accumulates
        return None if counted is None else counted * pixels
    try:
        onnx = require("onnx", extra="export", purpose="counting a graph's arithmetic")
    except MissingDependency:
        return None
    from overnet.export.graph.costs import count_costs

    return count_costs(onnx.load(str(file))).multiply_accumulates_per_pixel * pixels
