"""The host's and the GPU's memory that a method takes, and its growth with the size of the image.

The host's memory is the peak resident set of the process. It never shrinks, so each case runs in its own process.
"""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from overnet.benchmarks.power.nvml import opened
from overnet.benchmarks.results import Case, CaseResult, Memory, MemoryGrowth
from overnet.benchmarks.timing_stats import line_through
from overnet.errors import OverNetError, require
from overnet.system.cuda_device import cuda_device, free_device_memory_bytes
from overnet.system.environment import is_jetson

_STATUS = Path("/proc/self/status")

# Less than an image itself takes: smaller slopes are noise, not growth.
_LEAST_BYTES_PER_PIXEL = 1.0


def resident_host_bytes() -> int:
    """Return the resident set of this process."""
    return int(psutil.Process().memory_info().rss)


def peak_host_bytes() -> int:
    """Return the peak resident set of this process, as the system recorded it."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Only the fallback: on Linux it starts with the peak of the parent process.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class DeviceMemory:
    """The GPU memory that this process takes from the construction of this object on.

    It is NVIDIA's management library's (``pynvml``) figure for this process, if it has one; otherwise the decrease of
    free memory, which includes what other programs allocate meanwhile.

    Args:
        device: the GPU, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._used_before = _used_by_this_process()
        self._free_before = free_device_memory_bytes(device)

    def taken_bytes(self) -> int | None:
        """Return the memory taken since; None if it is unknown."""
        used = _used_by_this_process()
        if used is not None:
            return max(0, used - (self._used_before or 0))
        free = free_device_memory_bytes(self._device)
        return None if free is None or self._free_before is None else max(0, self._free_before - free)


def _used_by_this_process() -> int | None:
    """Return this process's memory on all GPUs; None if NVML is missing or does not list the process."""
    if is_jetson():
        return None  # some Jetsons have NVML, but it does not report the GPU's memory
    with suppress(OverNetError):  # it is not installed, or there is no driver
        pynvml = require("pynvml", extra="bench", purpose="measuring a GPU's memory")
        with opened(pynvml), suppress(pynvml.NVMLError):
            handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
            processes = [each for handle in handles for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            # In a container the process IDs differ; some drivers do not report the memory.
            own = [each for each in processes if each.pid == os.getpid() and each.usedGpuMemory is not None]
            return sum(int(each.usedGpuMemory) for each in own) if own else None
    return None


def memory_of(
    case: Case,
    *,
    before_host_bytes: int,
    peak_bytes: int,
    device_bytes: int | None,
    activation_bytes: int | None,
    device: int = 0,
) -> Memory:
    """Summarise the memory of a case.

    Args:
        before_host_bytes, peak_bytes: the host's memory, before the model was loaded and at its peak.
        device_bytes: the GPU's; None without one.
        activation_bytes: the engine's own figure; None without an engine.
        device: the number of the GPU.
    """
    taken = peak_bytes - before_host_bytes
    gpu = None if device_bytes is None else cuda_device(device)
    if device_bytes is not None and not (gpu is not None and gpu.shares_memory):
        taken += device_bytes
    return Memory(
        peak_host_bytes=peak_bytes,
        before_host_bytes=before_host_bytes,
        bytes_per_input_pixel=taken / (case.batch * case.pixels),
        device_bytes=device_bytes,
        activation_bytes=activation_bytes,
    )


def growth(
    results: Sequence[CaseResult], available_bytes: int, *, available_device_bytes: int | None = None
) -> list[MemoryGrowth]:
    """Fit the memory of each method as a line over the measured image sizes.

    For methods on a GPU with its own memory that is the GPU's memory, otherwise the host's.

    Args:
        results: of any cases; those without figures and methods with fewer than two sizes are left out.
        available_bytes: of the host's memory.
        available_device_bytes: of the GPU's own memory; None without one, or if it shares the host's.

    Returns:
        One line per method, precision and scale, in the order of the results; none where the memory does not grow.
    """
    points: dict[tuple[str, str, int, int], dict[int, float]] = {}
    for result in results:
        if result.memory is None or result.error is not None or result.case.kind != "backend":
            continue
        taken, available = result.memory.peak_host_bytes, available_bytes
        if result.memory.device_bytes is not None and available_device_bytes is not None:
            taken, available = result.memory.device_bytes, available_device_bytes
        key = result.case.method, result.case.precision, result.case.scale, available
        points.setdefault(key, {})[result.case.batch * result.case.pixels] = float(taken)
    lines = []
    for key, by_pixels in points.items():
        available = key[-1]
        if len(by_pixels) < 2:
            continue
        start, slope, misfit = line_through(list(by_pixels), list(by_pixels.values()))
        if slope < _LEAST_BYTES_PER_PIXEL:
            continue
        largest_pixels = max(0, int((available - start) / slope))
        lines.append(MemoryGrowth(*key[:3], start, slope, misfit, available, largest_pixels))
    return lines
