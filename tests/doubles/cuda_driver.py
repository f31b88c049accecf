"""The stand-in for the CUDA driver: how it is built, and what tests ask of it.

`driver_folder` builds cuda_driver.c into a ``libcuda.so.1``, with a stub for each other function of ``cuda.h``, and
`CudaDriver` is the library as the process that runs over it sees it. Settings for a process are environment variables,
read by ``cuInit``:

- ``OVERNET_CUDA_DEVICES``: how many devices, 1 unless set; ``CUDA_VISIBLE_DEVICES`` chooses among them by number
- ``OVERNET_CUDA_NAME``: ``Stand-in``; followed by the device's number where there are several
- ``OVERNET_CUDA_CAPABILITY``: ``8.7``
- ``OVERNET_CUDA_INTEGRATED``: 1 where the device shares the host's memory, as on a Jetson
- ``OVERNET_CUDA_CAN_MAP``: 0 where host memory cannot be mapped
- ``OVERNET_CUDA_MEMORY``: how many bytes each device has, 8 GiB unless set
- ``OVERNET_CUDA_LIMIT``, ``OVERNET_CUDA_HOST_LIMIT``: how many bytes can be allocated of a device's memory, and of the
  host's pinned
- ``OVERNET_CUDA_DELAY``: ``seed:microseconds``, as `CudaDriver.set_delay` takes them
"""

from __future__ import annotations

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
    """What the doubles are built with is not on this machine."""


class Counters(NamedTuple):
    """What there is now and, from `peak_device_bytes` on, what was since `CudaDriver.reset`.

    ``contexts`` counts how often contexts are retained, ``pushed`` the entries of all threads' stacks of them, and
    ``calls`` all calls of the driver but those of stubs.
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
        """What is left of what a program has to free or release; empty where it did."""
        counted = ("device_allocations", "host_allocations", "streams", "events", "graphs", "graph_execs", "contexts")
        return {name: getattr(self, name) for name in counted if getattr(self, name)}


class Timing(NamedTuple):
    """When one operation ran: seconds of ``time.monotonic``; of the stream with that `CudaDriver.stream_number`."""

    stream: int
    kind: str
    start_s: float
    end_s: float


class Access(NamedTuple):
    """Memory of a device that a launch touches; `mode` is READ, WRITE or both."""

    address: int
    size: int
    mode: int


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t)
_STREAM, _ADDRESS, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
# What each function returns, and then what it takes.
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
    """The stand-in, in a process that runs over it; every instance is the same one."""

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

    # what happened

    def counters(self) -> Counters:
        """What there is and what was; see `Counters`."""
        values = (ctypes.c_int64 * len(Counters._fields))()
        self._library.standin_counters(values)
        return Counters(*values)

    def thread_depth(self) -> int:
        """How many contexts are on the calling thread's stack."""
        return int(self._library.standin_thread_depth())

    def races(self) -> list[str]:
        """Operations on the same memory with no order between them, each as a sentence."""
        return _texts(self._library.standin_race)

    def messages(self) -> list[str]:
        """Why calls were refused, each as a sentence: out of bounds, freed, captured, not in the stand-in."""
        return _texts(self._library.standin_message)

    def timeline(self) -> list[Timing]:
        """When each copy, memset and launch ran, in the order in which they ended."""
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
        """What was raised in functions that `launch` was given, where it is otherwise lost."""
        return list(_errors)

    def reset(self) -> None:
        """Forget races, messages, the timeline, errors and totals; what is live stays counted."""
        self._library.standin_reset()
        _errors.clear()

    # what is to happen

    def set_delay(self, seed: int, most_microseconds: int) -> None:
        """Let each operation from now on take a random time, the same for the same seed."""
        self._library.standin_set_delay(seed, most_microseconds)

    def set_rates(self, *, copy_bytes_per_second: float = 0, launch_microseconds: int = 0) -> None:
        """Let copies and launches take at least so long; 0 for as fast as it goes."""
        self._library.standin_set_rates(copy_bytes_per_second, launch_microseconds)

    def set_memory_limit(self, device_bytes: int, host_bytes: int | None = None) -> None:
        """Let allocations beyond these fail, for want of memory."""
        self._library.standin_set_limits(device_bytes, (1 << 64) - 1 if host_bytes is None else host_bytes)

    def fail_next(self, function: str, code: int, *, after: int = 0, times: int = 1) -> None:
        """Let a function, such as ``"cuMemAlloc"``, return an error, after so many calls that do not.

        PyCUDA allocates device memory a second time where the first fails for want of memory: that takes two `times`.
        """
        assert self._library.standin_fail_next(function.encode(), code, after, times), "too many are to fail"

    def hold(self, stream: int) -> None:
        """Start no operation of a stream, by its handle, until `release`; 0 is the null stream."""
        assert self._library.standin_hold(stream, True), "no such stream"

    def release(self, stream: int) -> None:
        """Let a held stream go on."""
        assert self._library.standin_hold(stream, False), "no such stream"

    def stream_number(self, stream: int) -> int:
        """What reports call a stream: counted from 1 in the order in which they were made; 0 for a null stream."""
        return int(self._library.standin_stream_number(stream))

    # taking part

    def resolve(self, address: int, size: int) -> int:
        """Where a device's bytes can be touched by the host; raises where they are no allocation."""
        found = int(self._library.standin_resolve(address, size))
        if not found:
            raise ValueError(f"{size} bytes at {address:#x} are not allocated")
        return found

    def token(self) -> int:
        """An address for `Access` that is no memory: of an object that operations use one at a time."""
        return int(self._library.standin_token())

    def host_access(self, address: int, size: int, *, writes: bool, label: str = "access") -> None:
        """Say that the host touches memory now, which the stand-in cannot see, to have its order checked."""
        self._library.standin_host_access(address, size, writes, label.encode())

    def launch_host(
        self, stream: int, function: Callable[[], None], accesses: Sequence[Access], *, label: str = "launch"
    ) -> int:
        """Enqueue a function, as a kernel; returns the driver's error code, 0 for none.

        What it raises is a launch failure, and kept for `callback_errors`. It runs on a thread of the stream's. One
        that is captured is kept for as long as the process lives, since graphs may call it at any time.
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
        """Whether what is put into a stream is recorded at present, instead of run."""
        status = ctypes.c_int()
        failed = self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return not failed and status.value != 0


_numbers = itertools.count(1)
# By number; and whether they are captured.
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
    """The CUDA toolkit, of which only the headers are used.

    Raises:
        DoublesUnavailable: there is none, or no compiler.
    """
    root = Path(os.environ.get("CUDA_ROOT", "/usr/local/cuda"))
    if not (root / "include" / "cuda.h").is_file():
        raise DoublesUnavailable(f"no CUDA headers in {root}; CUDA_ROOT says where they are")
    if shutil.which("gcc") is None:
        raise DoublesUnavailable("no gcc")
    return root


def cache_folder() -> Path:
    """Where what was built is kept; ``OVERNET_TEST_CACHE`` says another place."""
    folder = os.environ.get("OVERNET_TEST_CACHE")
    return Path(folder) if folder else platformdirs.user_cache_path("overnet-tests")


@contextmanager
def built_once(name: str) -> Iterator[tuple[Path, Path | None]]:
    """A folder of the cache, and where to build it; None for that where it is built already.

    One process builds at a time. What is built appears in its place all at once, when the context is left.
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
    """The folder with the stand-in's ``libcuda.so.1``, built at first use.

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
