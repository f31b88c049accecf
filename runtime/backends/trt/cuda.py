"""CUDA through PyCUDA: a GPU's primary context, and the kinds of objects that streaming needs.

PyTorch, ONNX Runtime and TensorRT use the same primary context, so that all of them share its memory. It is not tied to
a thread: each use of CUDA makes it current for its duration (`Gpu.current`) and restores the previous context
afterwards. All objects are freed explicitly, within the context: PyCUDA leaks objects that Python's garbage collector
frees in a thread without one.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from overnet.errors import BackendError, MissingDependency, OverNetError, one_line, require
from overnet.system.cuda_device import check_device

# Bytes after a buffer's content, for readers that load a few more than they use (`overnet.runtime.video.color`).
PADDING_BYTES = 64
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_importing = threading.Lock()


class _Closable(Protocol):
    def close(self) -> None: ...


class Gpu:
    """A GPU whose primary context is retained; `acquire` creates one for each device in a process.

    Attributes:
        ordinal: its number among the devices that ``CUDA_VISIBLE_DEVICES`` leaves.
        name: such as ``"NVIDIA GeForce RTX 4070"``.
        shares_memory: whether it shares the host's memory, as on a Jetson.
    """

    _known: ClassVar[dict[int, Gpu]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, ordinal: int, driver: Any) -> None:
        self._driver = driver
        device = driver.Device(ordinal)
        self.ordinal = ordinal
        self.name = str(device.name())
        self.shares_memory = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self._context = device.retain_primary_context()
        self._users: weakref.WeakSet[_Closable] = weakref.WeakSet()

    @classmethod
    def acquire(cls, ordinal: int, user: _Closable) -> Gpu:
        """Retain a GPU for a user, which calls `release`; users that are left when Python ends are closed then.

        Raises:
            MissingDependency: PyCUDA is not installed, or does not load.
            InputError: there is no such device.
            BackendError: the driver reports an error.
        """
        driver = pycuda_driver()
        check_device(ordinal)
        with cls._lock, reporting_cuda("the GPU cannot be used"):
            if ordinal not in cls._known:
                driver.init()
                cls._known[ordinal] = cls(ordinal, driver)
            gpu = cls._known[ordinal]
            gpu._users.add(user)
            return gpu

    def release(self, user: _Closable) -> None:
        """Release the GPU; with its last user the context is released too, unless another library retains it."""
        with self._lock:
            self._users.discard(user)
            if not self._users and self._known.get(self.ordinal) is self:
                del self._known[self.ordinal]
                # Detached while it is current, which PyCUDA allows in any thread. An entry then remains on the driver's
                # own stack, which PyCUDA does not remove.
                with suppress(self._driver.Error):
                    self._context.push()
                    self._context.detach()
                    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
                    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def free_memory_bytes(self) -> tuple[int, int]:
        """Return free and total memory as the driver reports them. Within `current`."""
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def pinned(self, size_bytes: int) -> PinnedBuffer:
        """Allocate memory of the host that the GPU can access. Within `current`.

        Raises:
            MemoryError: there is too little memory.
        """
        try:
            return PinnedBuffer(self._driver, size_bytes)
        except self._driver.MemoryError as error:
            free = psutil.virtual_memory().available
            raise MemoryError(
                f"{size_bytes / 1e6:.0f} MB of page-locked memory needed; {free / 1e6:.0f} MB of the host's are free"
            ) from error

    def device(self, size_bytes: int) -> DeviceBuffer:
        """Allocate memory of the GPU. Within `current`.

        Raises:
            MemoryError: there is too little memory.
        """
        try:
            return DeviceBuffer(self._driver, size_bytes)
        except self._driver.MemoryError as error:
            free, total = self.free_memory_bytes()
            raise MemoryError(
                f"{size_bytes / 1e6:.0f} MB of GPU memory needed; of {self.name}'s {total / 1e6:.0f} MB "
                f"{free / 1e6:.0f} MB are free"
            ) from error

    def stream(self) -> CudaStream:
        """Create a stream. Within `current`."""
        return CudaStream(self._driver)

    def event(self, *, timed: bool = False) -> CudaEvent:
        """Create an event, which stores the time when it is reached if it is `timed`. Within `current`."""
        return CudaEvent(self._driver, timed=timed)

    def copy_in(self, target: DeviceBuffer, source: NDArray[Any], stream: CudaStream) -> None:
        """Begin to copy pinned host memory to the GPU. Within `current`."""
        self._driver.memcpy_htod_async(target.pointer, source, stream.inner)

    def copy_out(self, target: NDArray[Any], source: DeviceBuffer, stream: CudaStream) -> None:
        """Begin to copy from the GPU to pinned host memory. Within `current`."""
        self._driver.memcpy_dtoh_async(target, source.pointer, stream.inner)

    @classmethod
    def close_all(cls) -> None:
        """Close all users of GPUs, and leave no context current in this thread."""
        for gpu in list(cls._known.values()):
            # An interruption may have left it current, for which PyCUDA would abort the process.
            while gpu._driver.Context.get_current() == gpu._context:
                gpu._context.pop()
            for user in list(gpu._users):
                with suppress(OverNetError):
                    user.close()


# Runs before PyCUDA's own exit handler, which aborts the process where a context is left.
atexit.register(Gpu.close_all)


class CudaStream:
    """A stream of work that does not wait for the default stream. All methods within `Gpu.current`.

    PyCUDA destroys a stream with its last reference, and leaks it where no context is current then, as when an error's
    traceback held it. This object holds the only reference, which `close` drops.

    Attributes:
        handle: the handle for other libraries.
        inner: PyCUDA's object; callers may not store it.
    """

    def __init__(self, driver: Any) -> None:
        self.inner = driver.Stream(_NON_BLOCKING)
        self.handle = int(self.inner.handle)

    def wait_for(self, event: CudaEvent) -> None:
        """Let all work submitted from now on wait for an event."""
        self.inner.wait_for_event(event.inner)

    def synchronize(self) -> None:
        """Wait for all work in the stream."""
        self.inner.synchronize()

    def close(self) -> None:
        """Destroy the stream, whose work has ended."""
        self.inner = None


class CudaEvent:
    """An event in a stream. All methods within `Gpu.current`; for `inner` see `CudaStream`.

    Args:
        timed: whether the GPU stores the time when it reaches the event, which costs a little time.
    """

    def __init__(self, driver: Any, *, timed: bool = False) -> None:
        flags = driver.event_flags
        # A thread that waits for it sleeps: the CPU has frames to decode and encode meanwhile.
        self.inner = driver.Event(flags.BLOCKING_SYNC | (flags.DEFAULT if timed else flags.DISABLE_TIMING))

    def record(self, stream: CudaStream) -> None:
        """Put the event at the end of a stream."""
        self.inner.record(stream.inner)

    def synchronize(self) -> None:
        """Wait until the GPU reaches the event."""
        self.inner.synchronize()

    def milliseconds_since(self, earlier: CudaEvent) -> float:
        """Return the GPU's time since another event; both are timed and were reached."""
        return float(earlier.inner.time_till(self.inner))

    def close(self) -> None:
        """Destroy the event."""
        self.inner = None


class PinnedBuffer:
    """Page-locked memory of the host: the GPU copies to and from it without the CPU.

    Attributes:
        array: 1-D uint8 of `size_bytes` and `PADDING_BYTES`.
        pointer: the address for the GPU, which can work on this memory without a copy.
        size_bytes: the size without the padding.
    """

    def __init__(self, driver: Any, size_bytes: int) -> None:
        flags = driver.host_alloc_flags
        self.size_bytes = size_bytes
        self.array: NDArray[np.uint8] = driver.pagelocked_empty(
            size_bytes + PADDING_BYTES, np.uint8, mem_flags=flags.DEVICEMAP | flags.PORTABLE
        )
        self._allocation: Any = self.array.base
        self.pointer = int(self._allocation.get_device_pointer())

    def shaped(self, *shape: int) -> NDArray[np.uint8]:
        """Return the beginning of the buffer as a uint8 array of a shape."""
        return self.array[: int(np.prod(shape))].reshape(shape)

    def free(self) -> None:
        """Free the memory. Within `Gpu.current`; no array of it may be used afterwards."""
        self._allocation.free()


class DeviceBuffer:
    """Memory of the GPU.

    Attributes:
        pointer: the address.
        size_bytes: the size.
    """

    def __init__(self, driver: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._allocation = driver.mem_alloc(size_bytes)
        self.pointer = int(self._allocation)

    def free(self) -> None:
        """Free the memory. Within `Gpu.current`."""
        self._allocation.free()


class RecordedWork:
    """A CUDA graph: the many small launches of a frame's work, recorded once and launched as one in the same stream.

    PyCUDA cannot record; `cuda.core` can, in a stream of PyCUDA's. Where it is not installed, there are no graphs.

    Args:
        stream: the handle of a CUDA stream, whose context is current.
        enqueue: submits the work to the stream. It has run there before, so that nothing is left to be initialised.

    Raises:
        BackendError: `cuda.core` is not installed, or the work cannot be recorded.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        try:
            # While one thread imports it, another sees the module without its names (cuda-core 1.2.2).
            with _importing:
                core = importlib.import_module("cuda.core")
        except ImportError as error:
            raise BackendError("cuda-core is not installed: pip install 'overnet[cuda]'") from error
        except Exception as error:  # such as a library that does not load
            raise BackendError(f"cuda-core does not load ({one_line(error)})") from error
        with _recording():
            self._stream = core.Stream.from_handle(stream)
            builder = self._stream.create_graph_builder()
            try:
                # Other threads may copy and allocate meanwhile: only this thread's calls are recorded.
                builder.begin_building("thread_local")
                enqueue()
                builder.end_building()
                self._graph = builder.complete()
                builder.close()
            except BaseException:
                # Only closing ends a failed recording, and raises the error again.
                with suppress(Exception):
                    builder.close()
                raise

    def launch(self) -> None:
        """Launch the graph in the stream.

        Raises:
            BackendError: it cannot be launched.
        """
        with _recording():
            self._graph.launch(self._stream)

    def close(self) -> None:
        """Destroy the graph, which may not be running."""
        with _recording():
            self._graph.close()


@contextmanager
def _recording() -> Iterator[None]:
    """Raise errors of `cuda.core`, which are of many types, as BackendError."""
    try:
        yield
    except Exception as error:
        raise BackendError(f"the work cannot be recorded ({one_line(error)})") from error


def pycuda_driver() -> Any:
    """Return PyCUDA's driver module.

    Raises:
        MissingDependency: PyCUDA is not installed, or the driver's library is missing.
    """
    try:
        return require("pycuda.driver", extra="cuda", purpose="running an engine")
    except OSError as error:
        raise MissingDependency(f"running an engine needs pycuda, which does not load ({error})") from error


def pycuda_version() -> str:
    """Return PyCUDA's version, such as ``"2026.1"``.

    Raises:
        MissingDependency: see `pycuda_driver`.
    """
    pycuda_driver()
    return ".".join(map(str, importlib.import_module("pycuda").VERSION))


@contextmanager
def reporting_cuda(what: str) -> Iterator[None]:
    """Raise PyCUDA's errors as BackendError, those about memory as MemoryError."""
    driver = pycuda_driver()
    try:
        yield
    except driver.MemoryError as error:
        raise MemoryError(f"{what}: out of GPU memory") from error
    except driver.Error as error:
        raise BackendError(f"{what} ({one_line(error)})") from error
