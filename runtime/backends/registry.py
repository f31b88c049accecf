"""The known backends, and the choice between them for a model."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from overnet.errors import InputError, MissingDependency, did_you_mean
from overnet.files.engine_sidecar import RuntimeName
from overnet.runtime.backends.base import Backend, BackendOptions, LoadBackend, ModelKind
from overnet.system.cuda_device import cuda_device_count
from overnet.system.environment import TENSORRT_ON_JETSON, is_jetson


@dataclass(frozen=True)
class BackendKind:
    """A backend that OverNet can use where its library is installed.

    Attributes:
        name: the name that users give.
        module, distribution: the library it needs, by its import name and by its package name.
        extra: the extra of this package that installs the library; empty where the base installation does.
        load: loads the backend from a model file, a scale and options.
        takes: the kinds of models that it runs.
        helpers: further modules that it needs, by their import names.
        on_gpu: whether it needs an NVIDIA GPU.
    """

    name: str
    module: str
    distribution: str
    extra: str
    takes: frozenset[ModelKind]
    load: LoadBackend
    helpers: tuple[str, ...] = ()
    on_gpu: bool = False

    @property
    def runs_onnx(self) -> bool:
        """Return whether it runs ONNX files."""
        return "onnx" in self.takes


def _load_openvino(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(model, scale, options)


def _load_onnxruntime(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, scale, options)


def _load_torch(model: Path, scale: float, options: BackendOptions) -> Backend:
    from overnet.runtime.backends.torch_backend import TorchBackend

    return TorchBackend(model, scale, options)


def _load_tensorrt(runtime: RuntimeName) -> LoadBackend:
    def load(model: Path, scale: float, options: BackendOptions) -> Backend:
        from overnet.runtime.backends.trt.backend import TensorRtBackend

        return TensorRtBackend(model, scale, options, runtime, load_reference=_load_openvino)

    return load


_ONNX: frozenset[ModelKind] = frozenset({"onnx"})
_CHECKPOINT: frozenset[ModelKind] = frozenset({"checkpoint"})
_ENGINE: frozenset[ModelKind] = frozenset({"engine", "onnx"})
# Engines are built at first use from ONNX files, which are read with the library onnx.
_FOR_ENGINES = ("pycuda", "onnx")
# In order of preference: those on a GPU first, then the fastest as measured.
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


def installed(kind: BackendKind) -> bool:
    """Return whether the library that a backend needs is installed, without importing it."""
    return _is_there(kind.module)


def usable(kind: BackendKind) -> bool:
    """Return whether all modules of a backend are installed and a GPU is there if it needs one, without loading it."""
    if not installed(kind) or not all(_is_there(module) for module in kind.helpers):
        return False
    return not kind.on_gpu or cuda_device_count() > 0


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the installation is broken, or hidden on purpose
        return False


def installed_version(kind: BackendKind) -> str | None:
    """Return the version of the library that a backend needs, or None where it is not installed."""
    try:
        return importlib.metadata.version(kind.distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if installed(kind) else None


def how_to_install(kind: BackendKind) -> str:
    """Return the command that installs the library that a backend needs."""
    if kind.name == "tensorrt" and is_jetson():
        return TENSORRT_ON_JETSON
    return f"pip install 'overnet[{kind.extra}]'" if kind.extra else f"pip install {kind.distribution}"


def choose_backends(name: str, model: ModelKind, *, runtime: RuntimeName | None = None) -> list[BackendKind]:
    """Return the backends to try for a model, in this order; the first that loads is used.

    Args:
        name: a backend's name, or ``"auto"`` for the usable ones on a GPU that run the model, followed by the fastest
            one without a GPU.
        model: the kind of model.
        runtime: for an engine, the library that it was built for.

    Raises:
        InputError: there is no such backend, or it does not run this kind of model.
        MissingDependency: the backend, or for ``"auto"`` every backend that runs the model, is not installed.
    """
    if name == "auto":
        fitting = [kind for kind in BACKENDS.values() if model in kind.takes and runtime in (None, kind.name)]
        # An engine needs a GPU in any case: loading it reports a missing one.
        found = [kind for kind in fitting if (installed(kind) if model == "engine" else usable(kind))]
        if found:
            # A backend on the CPU does not fail for a GPU's reasons; one of those is enough.
            on_cpu = [kind for kind in found if not kind.on_gpu]
            return [kind for kind in found if kind.on_gpu] + on_cpu[:1]
        wanted = [kind for kind in fitting if model == "engine" or not kind.on_gpu]
        raise MissingDependency(
            f"no backend is installed for this model: {' or '.join(how_to_install(kind) for kind in wanted)}"
        )
    if name not in BACKENDS:
        near = did_you_mean(name, BACKENDS)
        raise InputError(f"there is no backend {name!r}; choose from auto, {', '.join(BACKENDS)}{near}")
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
