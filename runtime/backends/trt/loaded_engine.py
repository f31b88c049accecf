"""One interface to TensorRT and TensorRT-RTX: every use of their Python bindings for running is in this file.

It works with `tensorrt` from 10.3 to 11.x and `tensorrt_rtx` 1.x. Objects of the bindings are annotated with the name
of their class, so that tests/runtime/backends/trt/test_trt_names.py can look up each attribute used on them in the
bindings of each version. Attributes that only TensorRT-RTX has are used under ``if self.is_rtx``.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from overnet.errors import BackendError, OverNetError
from overnet.files.atomic import atomic_write, ensure_folder
from overnet.files.engine_sidecar import TITLES, RuntimeName
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.runtime.backends.base import is_out_of_memory
from overnet.system.environment import bindings
from overnet.system.tensorrt_logger import Severity, tensorrt_logger

# The bindings have no types that mypy could read.
Module: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IExecutionContext: TypeAlias = Any
IRuntimeCache: TypeAlias = Any
IRuntimeConfig: TypeAlias = Any
Runtime: TypeAlias = Any

_KNOWN_TENSORS = {INPUT_NAME, OUTPUT_NAME, GIVEN_MEANS_NAME, USE_GIVEN_MEANS_NAME, MEANS_NAME}
# Alignment that TensorRT requires of the memory it is given.
ALIGNMENT_BYTES = 256


def start_runtime(runtime: RuntimeName) -> Runtime:
    """Start a library, which may fail on this GPU or with this driver, although its bindings are installed.

    Raises:
        MissingDependency: the library is not installed.
        BackendError: it does not start; the message has its reason.
    """
    trt: Module = bindings(runtime, purpose="running an engine")
    errors = _errors(trt)
    errors.clear()
    started: Runtime = None
    with suppress(TypeError):  # the bindings raise it where the library returns no object
        started = trt.Runtime(tensorrt_logger(trt))
    if started is None:
        raise errors.failure(f"{TITLES[runtime]} does not start")
    return started


class LoadedEngine:
    """An engine on the GPU, whose context is current while the object is made and used.

    Args:
        serialized: the engine, from `overnet.files.engine_sidecar.load_engine`: deserialising can run code in it.
        runtime: the library it is for.
        cuda_graphs: whether TensorRT-RTX is to record and replay its work as CUDA graphs.
        kernel_cache: a file for the kernels that TensorRT-RTX compiles for the device at first use; None stores none.

    Attributes:
        is_rtx: whether the library is TensorRT-RTX, which captures CUDA graphs by itself.
        version: the library's version.
        minimum, maximum: height and width of the smallest and of the largest image that it takes, in pixels.
        means: the number of means over the image that it takes and outputs, over all channels; 0 if it does neither.

    Raises:
        MissingDependency: the library is not installed.
        BackendError: the library cannot load the engine.
        MemoryError: the GPU has too little memory for it.
    """

    def __init__(
        self, serialized: bytes, runtime: RuntimeName, *, cuda_graphs: bool = False, kernel_cache: Path | None = None
    ) -> None:
        self.is_rtx = runtime == "tensorrt-rtx"
        self._title = TITLES[runtime]
        self._trt: Module = bindings(runtime, purpose="running an engine")
        self.version = str(self._trt.__version__)
        self._errors = _errors(self._trt)
        # It has to outlive the engine.
        self._runtime: Runtime = start_runtime(runtime)
        self._errors.clear()
        self._engine: ICudaEngine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise self._failure("cannot load the engine")
        try:
            self.minimum, self.maximum, self.means = self._checked_tensors()
        except BaseException:
            self._engine = self._runtime = None  # its memory is freed here, where the context is current
            raise
        self._kernel_cache_file = kernel_cache
        self._kernel_cache: IRuntimeCache = None
        self._config: IRuntimeConfig = None
        if self.is_rtx:
            self._config = self._rtx_config(cuda_graphs=cuda_graphs)

    def _checked_tensors(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        """Return `minimum`, `maximum` and `means` of an engine whose tensors are those of an exported graph."""
        names = [str(self._engine.get_tensor_name(index)) for index in range(self._engine.num_io_tensors)]
        if not {INPUT_NAME, OUTPUT_NAME} <= set(names) <= _KNOWN_TENSORS:
            raise BackendError(f"OverNet did not make this engine: its tensors are {', '.join(names)[:200]}")
        shapes = {name: tuple(int(side) for side in self._engine.get_tensor_shape(name)) for name in names}
        means = shapes.get(MEANS_NAME, (1, 0, 1, 1))[1:2]
        vector = (-1, *means, 1, 1)
        for name in names:
            is_image = name in (INPUT_NAME, OUTPUT_NAME)
            wanted = self._trt.DataType.UINT8 if is_image else self._trt.DataType.FLOAT
            expected = {USE_GIVEN_MEANS_NAME: (1, 1, 1, 1)}.get(name, (-1, -1, -1, 3) if is_image else vector)
            found = shapes[name]
            # A side is fixed where the profile has one size only.
            fits = len(found) == 4 and all(wish in (-1, side) for wish, side in zip(expected, found, strict=True))
            if not fits or self._engine.get_tensor_dtype(name) != wanted or (MEANS_NAME in names and means < (1,)):
                raise BackendError(
                    f"OverNet did not make this engine: {name} is {self._engine.get_tensor_dtype(name)} of "
                    f"{' x '.join(map(str, found))[:100]}"
                )
        low, _, high = self._engine.get_tensor_profile_shape(INPUT_NAME, 0)
        return (int(low[1]), int(low[2])), (int(high[1]), int(high[2])), means[0]

    def _rtx_config(self, *, cuda_graphs: bool) -> IRuntimeConfig:
        if self.is_rtx:
            config: IRuntimeConfig = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if cuda_graphs:
                config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            cache: IRuntimeCache = config.create_runtime_cache()
            if self._kernel_cache_file is not None:
                # The library rejects a damaged file or another version, and compiles again.
                with suppress(OSError):
                    cache.deserialize(self._kernel_cache_file.read_bytes())
            config.set_runtime_cache(cache)
            self._kernel_cache = cache
            return config
        return None

    def context(self, stream: int) -> EngineContext:
        """Create an execution context; each frame in flight needs one. Its memory is set by `set_memory`.

        Args:
            stream: the handle of a CUDA stream, in which the context is initialised.

        Raises:
            MemoryError, BackendError: the library cannot create one.
        """
        engine: ICudaEngine = self._engine
        self._errors.clear()
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: IExecutionContext = engine.create_execution_context(self._config if self.is_rtx else strategy)
        if context is None:
            raise self._failure("cannot make an execution context")
        # Only the first context of an engine has the profile by default. From TensorRT 10 on, several can share it.
        if context.active_optimization_profile != 0 and not context.set_optimization_profile_async(0, stream):
            raise self._failure("cannot choose the profile")
        return EngineContext(context, self._errors, self._title)

    @property
    def device_memory_bytes(self) -> int:
        """Return the activation memory for the largest image."""
        engine: ICudaEngine = self._engine
        return int(engine.get_device_memory_size_for_profile_v2(0))

    def keep_kernels(self) -> None:
        """Store the kernels compiled so far for the next start, which compiles them again where storing fails."""
        if self.is_rtx:
            cache: IRuntimeCache = self._kernel_cache
            kernels = None if cache is None or self._kernel_cache_file is None else cache.serialize()
            if kernels is not None and self._kernel_cache_file is not None:
                with suppress(OverNetError):
                    ensure_folder(self._kernel_cache_file.parent)
                    with atomic_write(self._kernel_cache_file, overwrite=True) as temporary:
                        temporary.write_bytes(bytes(kernels))

    def close(self) -> None:
        """Free its memory. No context of it may be used afterwards."""
        # In this order: each needs the one after it.
        self._kernel_cache = self._config = self._engine = self._runtime = None

    def _failure(self, what: str) -> BackendError | MemoryError:
        return self._errors.failure(f"{self._title} {what}")


class EngineContext:
    """An execution context of an engine. All calls from one thread at a time."""

    def __init__(self, context: IExecutionContext, errors: _Errors, title: str) -> None:
        self._context: IExecutionContext = context
        self._errors, self._title = errors, title

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input.

        Raises:
            BackendError: the shape is not in the engine's profile.
        """
        self._errors.clear()
        if not self._context.set_input_shape(name, shape):
            raise self._errors.failure(f"{self._title} does not take {name} of {shape}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape for the shapes of the inputs that are set."""
        return tuple(int(side) for side in self._context.get_tensor_shape(name))

    def needed_memory_bytes(self) -> int:
        """Return the activation memory that the current shapes need; 0 where that is unknown."""
        return int(self._context.update_device_memory_size_for_shapes())

    def set_memory(self, pointer: int, size_bytes: int) -> None:
        """Set the activation memory, which nothing else may use during a run."""
        self._context.set_device_memory(pointer, size_bytes)

    def set_address(self, name: str, pointer: int) -> None:
        """Set the address of a tensor on the GPU."""
        if not self._context.set_tensor_address(name, pointer):
            raise self._errors.failure(f"{self._title} does not take the address of {name}")

    def enqueue(self, stream: int) -> None:
        """Submit a run to a CUDA stream.

        Raises:
            MemoryError, BackendError: the library reports an error.
        """
        self._errors.clear()
        if not self._context.execute_async_v3(stream):
            raise self._errors.failure(f"{self._title} cannot run the engine")

    def close(self) -> None:
        """Destroy the context, which may not be running."""
        self._context = None


class _Errors:
    """The last few error messages of a library."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[str] = deque(maxlen=8)

    def add(self, severity: Severity, text: str) -> None:
        if severity == "error":
            with self._lock:
                self._last.append(" ".join(text.split()))

    def clear(self) -> None:
        """Drop the messages, before a call whose own are needed: calls that do not fail log some too."""
        with self._lock:
            self._last.clear()

    def failure(self, what: str) -> BackendError | MemoryError:
        """Return the error for a failed call, with the first message, which the others result from."""
        with self._lock:
            messages = list(self._last)
            self._last.clear()
        message = f"{what} ({messages[0][:300]})" if messages else what
        if any(is_out_of_memory(RuntimeError(text)) for text in messages):
            return MemoryError(message)
        return BackendError(message)


@functools.cache
def _errors(trt: Module) -> _Errors:
    """Return the errors of a library, collected from the first call on."""
    errors = _Errors()
    tensorrt_logger(trt).listeners.append(errors.add)
    return errors
