"""What a backend is, and the choice between those that are there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from overnet.errors import BackendError, InputError, MissingDependency
from overnet.files.engine_sidecar import RuntimeName
from overnet.runtime.backends.options import BackendOptions
from overnet.system.cuda_device import cuda_device_count
from overnet.system.environment import TENSORRT_ON_JETSON, is_jetson

if TYPE_CHECKING:
    from overnet.runtime.backends.stream import UpscaleStream

Pictures = NDArray[np.uint8]
Statistics = list[NDArray[np.float32]]
ModelKind = Literal["onnx", "checkpoint", "engine"]

CHECKPOINT_SUFFIXES = (".safetensors", ".tar", ".pth", ".pt", ".ckpt")


class Backend(Protocol):
    """One model at one scale, loaded on one device: uint8 pictures in, uint8 pictures out.

    Attributes
    ----------
    name : one of `BACKENDS`.
    device : the device it runs on, for people.
    scale : the factor from input to output height and width.
    precision : of the arithmetic, one of `overnet.files.onnx_metadata.PRECISIONS`.
    bytes_per_pixel : memory a run takes for each input pixel, as a cautious estimate; tiles are chosen by it.
    """

    name: str
    device: str
    scale: float
    precision: str
    bytes_per_pixel: int

    def upscale(self, pictures: Pictures, statistics: Statistics | None = None) -> Pictures:
        """Upscale a batch.

        Parameters
        ----------
        pictures : N x H x W x 3 uint8, RGB, C-contiguous.
        statistics : means to use in place of the pictures' own, as `statistics` gives them.

        Returns
        -------
        N x round(H * scale) x round(W * scale) x 3 uint8, RGB: the caller's own, not overwritten by the next call.

        Raises
        ------
        MemoryError : the picture is too large for the memory there is; a smaller one may work.
        BackendError : anything else that fails in the library underneath.
        """
        ...

    def prepare(self, height: int, width: int) -> None:
        """Do what is to be done once for pictures of this size and takes long, such as building an engine.

        Raises
        ------
        OverNetError : it cannot be done.
        MemoryError : there is too little memory.
        """
        ...

    def tile_for(self, height: int, width: int) -> int | None:
        """Side, in input pixels, of the tiles that a picture of this size has to be cut into; None if it goes whole."""
        ...

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """Make ready for many frames of one size, each of which goes whole.

        Returns
        -------
        None where frames one by one are as good.

        Raises
        ------
        MemoryError : there is too little memory even for one frame at a time.
        """
        ...

    def take_notes(self) -> list[str]:
        """The remarks for the user gathered since this was last asked."""
        ...

    def close(self) -> None:
        """Let go of everything; the backend is of no use afterwards. More than once does no harm."""
        ...

    def statistics(self, pictures: Pictures, given: Statistics | None = None) -> Statistics:
        """The means over the whole picture by which the network weighs its channels.

        A tile has to be upscaled with the means of the picture it was cut from, or it comes out in other shades.

        Parameters
        ----------
        pictures : as for `upscale`.
        given : means to weigh channels by in place of the pictures' own: later means follow from earlier ones.

        Returns
        -------
        One array N x C x 1 x 1 float32 for each mean in the network, in the network's order.

        Raises
        ------
        MemoryError, BackendError : as for `upscale`.
        MissingDependency : a library that is needed for this alone is not installed.
        """
        ...


@dataclass(frozen=True)
class BackendKind:
    """A backend that may be installed.

    Attributes
    ----------
    name : what users call it.
    module, distribution : the library it needs, as it is imported and as it is installed.
    extra : the extra of this package that brings the library; empty where the base does.
    load : makes the backend from a model file, a scale and options.
    takes : which kinds of models it takes.
    helpers : further modules that it needs, as they are imported.
    on_gpu : whether it needs an NVIDIA GPU.
    """

    name: str
    module: str
    distribution: str
    extra: str
    takes: frozenset[ModelKind]
    load: Callable[[Path, float, BackendOptions], Backend]
    helpers: tuple[str, ...] = ()
    on_gpu: bool = False

    @property
    def runs_onnx(self) -> bool:
        """Whether it takes ONNX files."""
        return "onnx" in self.takes


def _load_openvino(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.openvino_backend import OpenVinoBackend  # noqa: PLC0415

    return OpenVinoBackend(model, scale, options)


def _load_onnxruntime(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend  # noqa: PLC0415

    return OnnxRuntimeBackend(model, scale, options)


def _load_torch(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.torch_backend import TorchBackend  # noqa: PLC0415

    return TorchBackend(model, scale, options)


def _load_tensorrt(runtime: RuntimeName) -> Callable[[Path, float, BackendOptions], Backend]:
    def load(model: Path, scale: float, options: BackendOptions) -> Backend:
        from overnet.runtime.backends.trt.backend import TensorRtBackend  # noqa: PLC0415

        return TensorRtBackend(model, scale, options, runtime)

    return load


_ONNX: frozenset[ModelKind] = frozenset({"onnx"})
_CHECKPOINT: frozenset[ModelKind] = frozenset({"checkpoint"})
_ENGINE: frozenset[ModelKind] = frozenset({"engine", "onnx"})
# What builds engines at first use reads ONNX files with the library of that name.
_FOR_ENGINES = ("pycuda", "onnx")
# In order of preference: GPUs first, then as measured.
BACKENDS: dict[str, BackendKind] = {
    kind.name: kind
    for kind in (
        BackendKind(
            "tensorrt", "tensorrt", "tensorrt", "gpu", _ENGINE, _load_tensorrt("tensorrt"), _FOR_ENGINES, on_gpu=True
        ),
        BackendKind(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "tensorrt-rtx",
            "rtx,cuda",
            _ENGINE,
            _load_tensorrt("tensorrt-rtx"),
            _FOR_ENGINES,
            on_gpu=True,
        ),
        BackendKind("openvino", "openvino", "openvino", "", _ONNX, _load_openvino),
        BackendKind("onnxruntime", "onnxruntime", "onnxruntime", "ort", _ONNX, _load_onnxruntime),
        BackendKind("torch", "torch", "torch", "torch", _CHECKPOINT, _load_torch),
    )
}


def model_kind(model: Path) -> ModelKind:
    """Which kind of model a file is, by its name: an ONNX file unless it is called otherwise."""
    suffix = model.suffix.lower()
    if suffix == ".engine":
        return "engine"
    return "checkpoint" if suffix in CHECKPOINT_SUFFIXES else "onnx"


def installed(kind: BackendKind) -> bool:
    """Whether the library a backend needs is there; it is not imported."""
    return _is_there(kind.module)


def usable(kind: BackendKind) -> bool:
    """Whether a backend has all that it needs here, as far as can be seen without loading it."""
    if not installed(kind) or not all(_is_there(module) for module in kind.helpers):
        return False
    return not kind.on_gpu or cuda_device_count() > 0


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an installation that is broken, or hidden on purpose
        return False


def installed_version(kind: BackendKind) -> str | None:
    """The version of the library a backend needs, or None where it is not installed."""
    try:
        return importlib.metadata.version(kind.distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if installed(kind) else None


def how_to_install(kind: BackendKind) -> str:
    """The command that installs what a backend needs."""
    if kind.name == "tensorrt" and is_jetson():
        return TENSORRT_ON_JETSON
    return f"pip install 'overnet[{kind.extra}]'" if kind.extra else f"pip install {kind.distribution}"


def choose_backends(name: str, model: ModelKind, *, runtime: RuntimeName | None = None) -> list[BackendKind]:
    """The backends to try for a model, one after the other; the first that loads is the one.

    Parameters
    ----------
    name : a backend's name, or ``"auto"`` for those on a GPU that are usable and take the model, and the fastest
        without one.
    model : which kind of model it is.
    runtime : of an engine, the library that it is for.

    Raises
    ------
    InputError : no such backend, or it does not take this kind of model.
    MissingDependency : it, or for ``"auto"`` all that would do, are not installed.
    """
    if name == "auto":
        fitting = [kind for kind in BACKENDS.values() if model in kind.takes and runtime in (None, kind.name)]
        # An engine needs a GPU: what stands in the way is said when it is loaded.
        found = [kind for kind in fitting if (installed(kind) if model == "engine" else usable(kind))]
        if found:
            # What can go wrong on a GPU is nothing to a CPU; one of those is enough.
            on_cpu = [kind for kind in found if not kind.on_gpu]
            return [kind for kind in found if kind.on_gpu] + on_cpu[:1]
        wanted = [kind for kind in fitting if model == "engine" or not kind.on_gpu]
        raise MissingDependency(
            f"no backend is installed for this model: {' or '.join(how_to_install(kind) for kind in wanted)}"
        )
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}; choose from auto, {', '.join(BACKENDS)}")
    kind = BACKENDS[name]
    if model not in kind.takes:
        titles = {"onnx": "ONNX files", "checkpoint": "checkpoints", "engine": "engines"}
        others = " or ".join(other.name for other in BACKENDS.values() if model in other.takes and not other.on_gpu)
        hint = f": use {others or runtime}"
        if model == "checkpoint":
            hint = ": make an ONNX file with overnet-export, or use torch"
        raise InputError(f"{name} runs {titles[min(kind.takes)]}, not {titles[model]}{hint}")
    if runtime not in (None, name):
        raise InputError(f"this engine is for {runtime}, not for {name}")
    if not installed(kind):
        raise MissingDependency(f"the backend {name} needs {kind.module}: {how_to_install(kind)}")
    return [kind]


def check_precision(precision: str, supported: tuple[str, ...], *, backend: str) -> None:
    """Refuse a precision that a backend does not compute in.

    Raises
    ------
    BackendError : it is not among the supported ones.
    """
    if precision not in supported:
        raise BackendError(f"{backend} computes here in {' or '.join(supported)}, not in {precision!r}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means that memory ran out; C++ libraries say so only in the message."""
    message = str(error).lower()
    signs = (
        "bad_alloc",
        "out of memory",
        "outofmemory",  # as TensorRT writes it
        "failed to allocate",
        "can't allocate memory",
        "not enough memory",
        "alloc_failed",
    )
    return isinstance(error, MemoryError) or any(sign in message for sign in signs)
