"""The stand-in for the CUDA driver: its build, and its interface for tests.

`driver_folder` builds cuda_driver.c into a ``libcuda.so.1``, with a stub for each other function of ``cuda.h``.
`CudaDriver` controls the library in the process that runs over it. ``cuInit`` reads a process's settings from
environment variables:

- ``OVERNET_CUDA_DEVICES``: number of devices, by default 1; ``CUDA_VISIBLE_DEVICES`` chooses among them by number
- ``OVERNET_CUDA_NAME``: by default ``Stand-in``; followed by the device's number where there are several
- ``OVERNET_CUDA_CAPABILITY``: compute capability, by default ``8.7``
- ``OVERNET_CUDA_SMS``: number of multiprocessors, by default 8
- ``OVERNET_CUDA_INTEGRATED``: 1 where the device shares the host's memory, as on a Jetson
- ``OVERNET_CUDA_CAN_MAP``: 0 where host memory cannot be mapped
- ``OVERNET_CUDA_MEMORY``: memory of each device in bytes, by default 8 GiB
- ``OVERNET_CUDA_LIMIT``, ``OVERNET_CUDA_HOST_LIMIT``: bytes that can be allocated of a device's memory, and of the
  host's pinned memory
- ``OVERNET_CUDA_DELAY``: ``seed:microseconds``, the arguments of `CudaDriver.set_delay`
"""

import ctypes
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

SONAME = "libcuda.so.1"
_SOURCE = Path(__file__).with_name("cuda_driver.c")
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror")
_PROTOTYPE = re.compile(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(")

READ, WRITE = 1, 2


class DoublesUnavailable(Exception):
    """The tools that build the doubles are missing on this machine."""


class Counters(NamedTuple):
    """The number of objects now and, from `peak_device_bytes` on, of operations since `CudaDriver.reset`.

    ``contexts`` counts the references to contexts, ``pushed`` the entries of all threads' context stacks, and
    ``calls`` all calls of the driver except stubs.
    """

    device_allocations: int
    device_bytes: int
    host_allocations: int
    host_bytes: int
    streams: int
    events: int
    graphs: int
    graph_execs: int
    contexts: int
    pushed: int
    peak_device_bytes: int
    total_device_allocations: int
    total_host_allocations: int
    htod_sync: int
    htod_async: int
    dtoh_sync: int
    dtoh_async: int
    dtod_sync: int
    dtod_async: int
    htod_bytes: int
    dtoh_bytes: int
    dtod_bytes: int
    memsets: int
    pageable_copies: int
    null_stream_operations: int
    launches: int
    captures: int
    graph_launches: int
    stream_synchronises: int
    event_synchronises: int
    context_synchronises: int
    event_records: int
    calls: int

    @property
    def live(self) -> dict[str, int]:
        """The numbers of objects that are not freed or released yet, by kind."""
        counted = ("device_allocations", "host_allocations", "streams", "events", "graphs", "graph_execs", "contexts")
        return {name: getattr(self, name) for name in counted if getattr(self, name)}


class Timing(NamedTuple):
    """The times of one operation, in seconds of ``time.monotonic``, and its stream's `CudaDriver.stream_number`."""

    stream: int
    kind: str
    start_s: float
    end_s: float


class Access(NamedTuple):
    """Device memory that a launch accesses; `mode` is READ, WRITE or both."""

    address: int
    size: int
    mode: int


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t)
_STREAM, _ADDRESS, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
# The result type of each function, then its argument types.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "standin_launch": (ctypes.c_int, _STREAM, _CALLBACK, ctypes.c_size_t, _TEXT, ctypes.c_void_p, ctypes.c_int),
    "standin_resolve": (_ADDRESS, _ADDRESS, ctypes.c_size_t),
    "standin_token": (_ADDRESS,),
    "standin_host_access": (None, _ADDRESS, ctypes.c_size_t, ctypes.c_bool, _TEXT),
    "standin_hold": (ctypes.c_bool, _STREAM, ctypes.c_bool),
    "standin_stream_number": (ctypes.c_int, _STREAM),
    "standin_set_delay": (None, ctypes.c_uint32, ctypes.c_uint32),
    "standin_set_rates": (None, ctypes.c_double, ctypes.c_uint32),
    "standin_set_limits": (None, ctypes.c_size_t, ctypes.c_size_t),
    "standin_fail_next": (ctypes.c_bool, _TEXT, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    "standin_counter_name": (_TEXT, ctypes.c_int),
    "standin_counters": (None, ctypes.c_void_p),
    "standin_race": (_TEXT, ctypes.c_int),
    "standin_message": (_TEXT, ctypes.c_int),
    "standin_timing": (ctypes.c_bool, ctypes.c_int, *[ctypes.c_void_p] * 4),
}


class CudaDriver:
    """The stand-in in a process that runs over it. All instances control the same library."""

    def __init__(self) -> None:
        library = ctypes.CDLL(SONAME)
        if not hasattr(library, "standin_launch"):
            raise DoublesUnavailable(f"this process has another {SONAME}; start it by tests.doubles.running")
        self._library = library
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        names = tuple(library.standin_counter_name(index).decode() for index in range(len(Counters._fields)))
        assert names == Counters._fields
        assert library.standin_counter_name(len(names)) is None

    def counters(self) -> Counters:
        """Return the numbers of objects and operations."""
        values = (ctypes.c_int64 * len(Counters._fields))()
        self._library.standin_counters(values)
        return Counters(*values)

    def thread_depth(self) -> int:
        """Return the number of contexts on the calling thread's stack."""
        return int(self._library.standin_thread_depth())

    def races(self) -> list[str]:
        """Return descriptions of the pairs of operations that use the same memory without an order between them."""
        return _texts(self._library.standin_race)

    def messages(self) -> list[str]:
        """Return the reasons for refused calls, such as memory out of bounds or freed, or a missing function."""
        return _texts(self._library.standin_message)

    def timeline(self) -> list[Timing]:
        """Return the times of each copy, memset and launch, in the order of their ends."""
        found = []
        stream, kind = ctypes.c_int(), ctypes.create_string_buffer(64)
        start, end = ctypes.c_double(), ctypes.c_double()
        places = [ctypes.byref(place) for place in (stream, kind, start, end)]
        for index in itertools.count():
            if not self._library.standin_timing(index, *places):
                break
            found.append(Timing(stream.value, kind.value.decode(), start.value, end.value))
        return found

    def callback_errors(self) -> list[BaseException]:
        """Return the exceptions of launched functions, which are not raised elsewhere."""
        return list(_errors)

    def reset(self) -> None:
        """Clear races, messages, the timeline, errors and totals, but not the numbers of live objects."""
        self._library.standin_reset()
        _errors.clear()

    def set_delay(self, seed: int, most_microseconds: int) -> None:
        """Delay each later operation by a random time, the same for the same seed."""
        self._library.standin_set_delay(seed, most_microseconds)

    def set_rates(self, *, copy_bytes_per_second: float = 0, launch_microseconds: int = 0) -> None:
        """Set the shortest durations of copies and launches; 0 sets none."""
        self._library.standin_set_rates(copy_bytes_per_second, launch_microseconds)

    def set_memory_limit(self, device_bytes: int, host_bytes: int | None = None) -> None:
        """Let allocations beyond these sizes fail with an out-of-memory error."""
        self._library.standin_set_limits(device_bytes, (1 << 64) - 1 if host_bytes is None else host_bytes)

    def fail_next(self, function: str, code: int, *, after: int = 0, times: int = 1) -> None:
        """Let a function, such as ``"cuMemAlloc"``, return an error `times` times, after `after` calls that do not.

        PyCUDA tries a failed allocation of device memory a second time, so its failure needs two `times`.
        """
        assert self._library.standin_fail_next(function.encode(), code, after, times), "too many are to fail"

    def hold(self, stream: int) -> None:
        """Start no operation of a stream, by its handle, until `release`; 0 is the null stream."""
        assert self._library.standin_hold(stream, True), "no such stream"

    def release(self, stream: int) -> None:
        """Let a held stream continue."""
        assert self._library.standin_hold(stream, False), "no such stream"

    def stream_number(self, stream: int) -> int:
        """Return a stream's number in reports: from 1 in the order of creation; 0 for a null stream."""
        return int(self._library.standin_stream_number(stream))

    def resolve(self, address: int, size: int) -> int:
        """Return the host address of device memory; raise ValueError where it is not allocated."""
        found = int(self._library.standin_resolve(address, size))
        if not found:
            raise ValueError(f"{size} bytes at {address:#x} are not allocated")
        return found

    def token(self) -> int:
        """Return an address for `Access` of an object without memory that operations must use one at a time."""
        return int(self._library.standin_token())

    def host_access(self, address: int, size: int, *, writes: bool, label: str = "access") -> None:
        """Report an access by the host, which the stand-in cannot see, to have its order checked."""
        self._library.standin_host_access(address, size, writes, label.encode())

    def launch_host(
        self, stream: int, function: Callable[[], None], accesses: Sequence[Access], *, label: str = "launch"
    ) -> int:
        """Enqueue a function as a kernel, and return the driver's error code, 0 for none.

        It runs on a thread of the stream. An exception is a launch failure, and kept for `callback_errors`. A captured
        function is kept as long as the process, since graphs may call it at any time.
        """
        number = next(_numbers)
        _functions[number] = function, self.is_capturing(stream)
        flat = [value for access in accesses for value in access]
        ranges = (ctypes.c_uint64 * max(len(flat), 1))(*flat)
        error = int(self._library.standin_launch(stream, _call, number, label.encode()[:63], ranges, len(accesses)))
        if error:
            del _functions[number]
        return error

    def is_capturing(self, stream: int) -> bool:
        """Return whether a stream is capturing."""
        status = ctypes.c_int()
        failed = self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return not failed and status.value != 0


_numbers = itertools.count(1)
# By number, with whether they are captured.
_functions: dict[int, tuple[Callable[[], None], bool]] = {}
_errors: list[BaseException] = []


def _call_function(number: int) -> int:
    try:
        function, captured = _functions[number]
        if not captured:
            del _functions[number]
        function()
    except BaseException as error:
        _errors.append(error)
        return 1
    return 0


_call = _CALLBACK(_call_function)


def _texts(function: Callable[[int], bytes | None]) -> list[str]:
    found: list[str] = []
    while (text := function(len(found))) is not None:
        found.append(text.decode())
    return found


def cuda_root() -> Path:
    """Return the folder of the CUDA toolkit, of which only the headers are used.

    Raises:
        DoublesUnavailable: the headers or a compiler are missing.
    """
    root = Path(os.environ.get("CUDA_ROOT", "/usr/local/cuda"))
    if not (root / "include" / "cuda.h").is_file():
        raise DoublesUnavailable(f"no CUDA headers in {root}; set CUDA_ROOT to their folder")
    if shutil.which("gcc") is None:
        raise DoublesUnavailable("no gcc")
    return root


def cache_folder() -> Path:
    """Return the folder for what is built; ``OVERNET_TEST_CACHE`` replaces it."""
    folder = os.environ.get("OVERNET_TEST_CACHE")
    return Path(folder) if folder else platformdirs.user_cache_path("overnet-tests")


@contextmanager
def built_once(name: str) -> Iterator[tuple[Path, Path | None]]:
    """Enter a context with a folder of the cache, and the folder to build it in; None where it is built already.

    One process builds at a time. The build is moved to its place at the end of the context.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield folder, None
            return
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}.") as scratch:
            work = Path(scratch) / "work"
            work.mkdir()
            yield folder, work
            work.rename(folder)


def driver_folder() -> Path:
    """Return the folder with the stand-in's ``libcuda.so.1``, after building it at first use.

    Raises:
        DoublesUnavailable: CUDA's headers or a compiler are missing.
    """
    include = cuda_root() / "include"
    compiler = _output("gcc", "--version")
    parts = (_SOURCE.read_bytes(), Path(__file__).read_bytes(), (include / "cuda.h").read_bytes(), compiler.encode())
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
    with built_once(f"driver-{digest}") as (folder, work):
        if work is not None:
            _build(include, work)
    return folder


def _build(include: Path, work: Path) -> None:
    compile_object = ("gcc", *_FLAGS, f"-I{include}", "-c")
    driver, stubs, headers = work / "driver.o", work / "stubs.c", work / "headers.c"
    _output(*compile_object, str(_SOURCE), "-o", str(driver))
    there = set(re.findall(r" T (\w+)", _output("nm", "--defined-only", str(driver))))
    headers.write_text("#include <cuda.h>\n#include <cudaProfiler.h>\n")
    declared = set(_PROTOTYPE.findall(_output("gcc", "-E", f"-I{include}", str(headers))))
    missing = sorted(declared - there)
    refusing = "".join(f'int {name}(void) {{ return standin_refuse("{name}"); }}\n' for name in missing)
    names = "".join(f'"{name}", ' for name in missing)
    stubs.write_text(
        f"int standin_refuse(const char *function);\n{refusing}const char *const standin_stubs[] = {{{names}0}};\n"
    )
    linked = work / SONAME
    _output("gcc", *_FLAGS, "-shared", f"-Wl,-soname,{SONAME}", str(driver), str(stubs), "-o", str(linked), "-ldl")


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout
