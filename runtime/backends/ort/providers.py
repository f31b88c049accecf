"""ONNX Runtime's execution providers: the CPU, CUDA, TensorRT, and TensorRT for RTX.

ONNX Runtime skips a requested provider that it was built without, or whose libraries do not load, and computes
everything on the CPU. Here that is an error that says why.

Two providers store what they compile, so that the next start does not take minutes again, in the user's cache folder
(``~/.cache/overnet/onnxruntime`` on Linux), which can be deleted at any time. ONNX Runtime identifies an engine of
TensorRT by the names in the graph alone, so that of two models with one structure the second would run with the first
one's weights (microsoft/onnxruntime#6455): each file, version and device has a folder of its own.
"""

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs

from overnet.errors import BackendError, InputError, MissingDependency, one_line
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.ort.binding import BoundSession
from overnet.runtime.backends.ort.profiled import ProfiledSession, ProfileOptions
from overnet.system.cuda_device import check_device, free_device_memory_bytes

_NVIDIA = 0x10DE
_PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx"
_RTX_COMMAND = f"pip install 'onnxruntime>=1.24' {_PLUGIN}"
_QUIET, _USUAL = 4, 2  # severities of ONNX Runtime's log: fatal errors, and warnings, its default
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class _Kind:
    """A provider: ONNX Runtime's name for it, its title in messages, and the end of its library's file name."""

    provider: str
    title: str
    library: str


_KINDS = {
    "cpu": _Kind(_CPU, "CPU", ""),
    "cuda": _Kind(_CUDA, "CUDA", "cuda"),
    "tensorrt": _Kind("TensorrtExecutionProvider", "TensorRT", "tensorrt"),
    "tensorrt-rtx": _Kind("NvTensorRTRTXExecutionProvider", "TensorRT-RTX", "nv_tensorrt_rtx"),
}
PROVIDERS = tuple(_KINDS)


def check_provider(provider: str, *, backend: str) -> None:
    """Check that a provider exists and that the backend uses it.

    Raises:
        InputError: there is no such provider, or one is chosen for another backend than ONNX Runtime.
    """
    if provider not in _KINDS:
        raise InputError(f"there is no provider {provider!r}; choose from {', '.join(PROVIDERS)}")
    if provider != "cpu" and backend != "onnxruntime":
        raise InputError(f"the provider {provider} is for the backend onnxruntime, and the backend is {backend}")


def known_providers() -> list[str]:
    """Return the names of the providers that the installed ONNX Runtime was built with; empty without it.

    The libraries of a provider in the list may still fail to load.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        return []
    available = onnxruntime.get_available_providers()
    found = [name for name, kind in _KINDS.items() if kind.provider in available]
    if "tensorrt-rtx" not in found and importlib.util.find_spec(_PLUGIN.replace("-", "_")):
        found.append("tensorrt-rtx")
    return found


class Provider:
    """A provider on one device, which opens sessions.

    Args:
        onnxruntime: the module.
        options: of the backend; this uses `provider`, `device`, `threads` and `precision`.
        file_precision: the precision of the model file.

    Attributes:
        device: the name of the device.
        precision: of the arithmetic: on the CPU ``"int8"`` for INT8 files and ``"fp32"`` for all others; on a GPU the
            file's, except that TensorRT can compute an FP32 file in FP16. GPUs that support TF32 compute FP32
            convolutions in it.
        on_gpu: whether the device is a GPU.

    Raises:
        InputError: there is no such device.
        MissingDependency: the package of the provider is not installed.
        BackendError: ONNX Runtime lacks the provider, there is no GPU, or the precision is not supported.
    """

    def __init__(self, onnxruntime: Any, options: BackendOptions, file_precision: str) -> None:
        self._onnxruntime, self._options = onnxruntime, options
        self._kind = _KINDS[options.provider]
        self.on_gpu = options.provider != "cpu"
        self.precision = self._precision(file_precision)
        self._lowers_to_fp16 = self.on_gpu and self.precision != file_precision
        self.notes: list[str] = []
        self.device, self._device_folder = "CPU", ""
        self._memory: tuple[str | int, ...] = ("cpu", 0)
        # ONNX Runtime's object for the device, where the provider is a library of its own.
        self._plugin_device = self._found() if self.on_gpu else None
        if not self.on_gpu:
            return
        gpu = check_device(options.device)
        self.device = f"{gpu.name}, {self._kind.title}"
        self._memory = ("cuda", options.device)
        if self._plugin_device is not None:
            self._memory = ("gpu", options.device, _NVIDIA)
        versions = [onnxruntime.__version__, *_load_libraries(onnxruntime, options.provider)]
        words = (*versions, gpu.name, gpu.compute_capability)
        self._device_folder = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words)

    def free_memory_bytes(self) -> int | None:
        """Return the free memory of the GPU; None for the CPU, or where the driver does not report it."""
        return free_device_memory_bytes(self._options.device) if self.on_gpu else None

    def open_session(self, content: bytes) -> BoundSession | ProfiledSession:
        """Load a graph.

        Raises:
            BackendError: the provider does not load. Errors in the graph are raised as ONNX Runtime's own exceptions.
        """
        session = self._opened(content)
        if self._options.provider != "tensorrt":
            return session
        return ProfiledSession(session, partial(self._opened, content), self._note)

    def _note(self, line: str) -> None:
        self.notes.append(line)

    def _opened(self, content: bytes, profile: ProfileOptions | None = None, name: str = "") -> BoundSession:
        """Open a session; `profile` and `name` are those that `ProfiledSession` gives."""
        own_options = (self._own_options(content, name) | (profile or {})) if self.on_gpu else {}
        onnxruntime = self._onnxruntime
        session_options = onnxruntime.SessionOptions()
        # Warnings about the machine (no GPU, unknown CPU) do not help users; errors arrive as exceptions.
        session_options.log_severity_level = _QUIET
        session_options.intra_op_num_threads = self._options.threads or os.cpu_count() or 1
        providers: list[Any] | None = None
        if self._plugin_device is not None:
            # By its name alone ONNX Runtime would not find the provider, and use the CPU.
            session_options.add_provider_for_devices([self._plugin_device], own_options)
        else:
            # ONNX Runtime assigns each node to the first one that supports it.
            providers = [(self._kind.provider, own_options)] if self.on_gpu else []
            if self._options.provider == "tensorrt":
                providers.append((_CUDA, self._cuda_options()))
            providers.append(_CPU)
        with self._quiet():
            try:
                # With the fallback enabled, ONNX Runtime prints an error on stdout and uses the CPU.
                session = onnxruntime.InferenceSession(content, session_options, providers, enable_fallback=0)
            except Exception:
                if (reason := self._library_error()) is not None:
                    raise self._not_loading(reason) from None
                raise
        if session.get_providers()[0] != self._kind.provider:
            raise self._not_loading(self._library_error() or "ONNX Runtime gives no reason")
        return BoundSession(onnxruntime, session, self._memory)

    def _precision(self, file_precision: str) -> str:
        wanted = self._options.precision
        if not self.on_gpu:
            computed = "int8" if file_precision == "int8" else "fp32"
            if wanted not in (None, computed, "fp32"):
                raise BackendError(f"onnxruntime computes this file on the CPU in {computed}, not in {wanted!r}")
            return wanted or computed
        if wanted is None or wanted == file_precision:
            return file_precision
        if (self._options.provider, file_precision, wanted) == ("tensorrt", "fp32", "fp16"):
            return wanted
        raise BackendError(
            f"the provider {self._options.provider} computes in the precision of the file, {file_precision}, not in "
            f"{wanted!r}: export a file with overnet-export --precision"
        )

    def _found(self) -> Any:
        """Check that ONNX Runtime has the provider; return its device where it is a library of its own, else None."""
        onnxruntime, kind, ordinal = self._onnxruntime, self._kind, self._options.device
        if self._options.provider == "tensorrt-rtx":
            if kind.provider not in onnxruntime.get_available_providers():
                self._register_plugin()
            devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == kind.provider]
            if not devices:
                raise self._not_loading("it supports none of the GPUs here; it needs an RTX GPU, Ampere or later")
            if ordinal >= len(devices):
                raise InputError(f"device is {ordinal}; {kind.title} supports {len(devices)} here")
            return devices[ordinal]
        if kind.provider not in onnxruntime.get_available_providers():
            raise BackendError(
                f"the installed onnxruntime {onnxruntime.__version__} was built without {kind.title}: "
                "pip uninstall onnxruntime, then pip install 'overnet[ort-gpu]'"
            )
        return None

    def _register_plugin(self) -> None:
        try:
            plugin = importlib.import_module(_PLUGIN.replace("-", "_"))
        except ImportError as error:
            raise MissingDependency(
                f"the provider tensorrt-rtx needs {_PLUGIN} ({one_line(error)}): {_RTX_COMMAND}"
            ) from error
        if not hasattr(self._onnxruntime, "get_ep_devices"):
            raise MissingDependency(f"the provider tensorrt-rtx needs onnxruntime 1.24: {_RTX_COMMAND}")
        try:
            self._onnxruntime.register_execution_provider_library(self._kind.provider, plugin.get_library_path())
        except Exception as error:
            raise self._not_loading(one_line(error)) from error

    def _own_options(self, content: bytes, name: str) -> dict[str, str]:
        if self._options.provider == "cuda":
            return self._cuda_options()
        folder = self._cache_folder(content, name)
        if self._options.provider == "tensorrt-rtx":
            return {"nv_runtime_cache_path": folder} if folder else {}
        options = {"device_id": str(self._options.device)}
        if folder:
            for cache in ("engine", "timing"):
                options |= {f"trt_{cache}_cache_enable": "True", f"trt_{cache}_cache_path": folder}
        # Without such a flag TensorRT computes in the types of the graph, as files in a lower precision need.
        return options | ({"trt_fp16_enable": "True"} if self._lowers_to_fp16 else {})

    def _cuda_options(self) -> dict[str, str]:
        return {
            "device_id": str(self._options.device),
            # The default tries every algorithm at each new size of image, which takes seconds each time.
            "cudnn_conv_algo_search": "HEURISTIC",
            # The default doubles each allocation, and so runs out of memory with half of it unused.
            "arena_extend_strategy": "kSameAsRequested",
            "do_copy_in_default_stream": "1",
        }

    def _cache_folder(self, content: bytes, name: str) -> str | None:
        """Return the folder that stores what is compiled from this graph; None where it cannot be created.

        ONNX Runtime replaces an engine for other sizes, so each range of sizes, by its name, has one of its own.
        """
        root = platformdirs.user_cache_path("overnet") / "onnxruntime" / self._options.provider
        folder = root / self._device_folder / hashlib.sha256(content).hexdigest()[:16] / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.notes.append(
                f"what {self._kind.title} compiles cannot be stored for the next start ({one_line(error)})"
            )
            return None
        return str(folder)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Suppress what ONNX Runtime logs about providers that do not load: the error raised here contains it."""
        if not self.on_gpu:
            yield
            return
        self._onnxruntime.set_default_logger_severity(_QUIET)
        try:
            yield
        finally:
            self._onnxruntime.set_default_logger_severity(_USUAL)

    def _library_error(self) -> str | None:
        """Return why the provider's library does not load, which ONNX Runtime only logs; None where it loads."""
        if not self.on_gpu or self._plugin_device is not None:
            return None
        folder = Path(self._onnxruntime.__file__).parent / "capi"
        # The provider's library uses symbols of the shared one, which has to be loaded first.
        for name, mode in (("shared", ctypes.RTLD_GLOBAL), (self._kind.library, ctypes.RTLD_LOCAL)):
            for library in folder.glob(f"*onnxruntime_providers_{name}.*"):
                try:
                    ctypes.CDLL(str(library), mode)
                except OSError as error:
                    return one_line(error)
        return None

    def _not_loading(self, reason: str) -> BackendError:
        return BackendError(f"ONNX Runtime's provider for {self._kind.title} does not load ({reason}){_advice(reason)}")


def _load_libraries(onnxruntime: Any, provider: str) -> list[str]:
    """Load the libraries that a provider needs from pip's packages; return the versions of those that have one.

    A missing library is reported when the provider does not load.
    """
    if provider == "tensorrt-rtx":
        return []  # its package contains them
    if hasattr(onnxruntime, "preload_dlls"):
        # It reports missing libraries on stdout, which is for results.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RuntimeError):
            onnxruntime.preload_dlls()
    if provider == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            return [str(importlib.import_module("tensorrt").__version__)]
    return []


def _advice(reason: str) -> str:
    """Return what to do about a missing library, as the end of a message."""
    if "libcuda.so" in reason or "nvcuda" in reason:
        return ": the NVIDIA driver is not installed"
    if tensorrt := re.search(r"libnvinfer\.so\.(\d+)|nvinfer_(\d+)\.dll", reason):
        return f": pip install 'tensorrt=={tensorrt[1] or tensorrt[2]}.*'"
    if re.search(r"lib(cu|nv)\w+\.so", reason) or sys.platform == "win32":
        return ": pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return ""
