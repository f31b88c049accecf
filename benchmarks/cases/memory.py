"""What a method takes of the host's and of a GPU's memory, and how that grows with the image.

The host's memory is a process's largest resident set. It never shrinks, so a case is measured in a process of its own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from overnet.benchmarks.power.nvml import opened
from overnet.benchmarks.results import Case, CaseResult, Memory, MemoryGrowth
from overnet.benchmarks.timing_stats import line_through
from overnet.errors import OverNetError, require
from overnet.system.cuda_device import cuda_device, free_device_memory_bytes
from overnet.system.environment import is_jetson

_STATUS = Path("/proc/self/status")

# An image alone takes more; what grows by less does not grow, but its figures are not quite equal.
_LEAST_BYTES_PER_PIXEL = 1.0


def resident_host_bytes() -> int:
    """What this process has in memory now."""
    return int(psutil.Process().memory_info().rss)


def peak_host_bytes() -> int:
    """The most that this process ever had in memory at once, as the system kept note of it."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Not asked first: on Linux it begins with what the process had that started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class DeviceMemory:
    """What this process takes of a GPU's memory from the moment on that this is made.

    Where NVIDIA's management library (``pynvml``) knows this process, that is what it says; else by how much less of
    the memory is free, which counts what other programs do meanwhile.

    Args:
        device: the GPU, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._used_before = _used_by_this_process()
        self._free_before = free_device_memory_bytes(device)

    def taken_bytes(self) -> int | None:
        """How much was taken since; None where that cannot be known."""
        used = _used_by_this_process()
        if used is not None:
            return max(0, used - (self._used_before or 0))
        free = free_device_memory_bytes(self._device)
        return None if free is None or self._free_before is None else max(0, self._free_before - free)


def _used_by_this_process() -> int | None:
    """GPU memory of this process on all GPUs; None where NVML is not there, or does not know the process."""
    if is_jetson():
        return None  # NVML is there on some, and does not see the GPU as others do
    try:
        pynvml = require("pynvml", extra="bench", purpose="measuring a GPU's memory")
        with opened(pynvml), suppress(pynvml.NVMLError):
            return _in_nvml(pynvml)
    except OverNetError:
        pass  # it is not installed, or there is no driver
    return None


def _in_nvml(pynvml: Any) -> int | None:
    used = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            # In a container, processes have other numbers there; some drivers do not say how much.
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                used.append(int(process.usedGpuMemory))
    return sum(used) if used else None


def memory_of(
    case: Case,
    *,
    before_host_bytes: int,
    peak_bytes: int,
    device_bytes: int | None,
    activation_bytes: int | None,
    device: int = 0,
) -> Memory:
    """Put together what a case takes.

    Args:
        before_host_bytes, peak_bytes: of the host's memory, before the model was loaded and at most.
        device_bytes: of the GPU's; None without one.
        activation_bytes: as the engine states it; None where there is none.
        device: which GPU.
    """
    taken = peak_bytes - before_host_bytes
    if device_bytes is not None and not _shares_memory(device):
        taken += device_bytes
    return Memory(
        peak_host_bytes=peak_bytes,
        before_host_bytes=before_host_bytes,
        bytes_per_input_pixel=taken / (case.batch * case.pixels),
        device_bytes=device_bytes,
        activation_bytes=activation_bytes,
    )


def _shares_memory(device: int) -> bool:
    gpu = cuda_device(device)
    return gpu is not None and gpu.shares_memory


def growth(
    results: Sequence[CaseResult], available_bytes: int, *, available_device_bytes: int | None = None
) -> list[MemoryGrowth]:
    """How the memory of each method grows over the sizes that it was measured at.

    Methods on a GPU with memory of its own are judged by that, all others by the host's.

    Args:
        results: of any cases; those without figures are left out, and methods with fewer than two sizes.
        available_bytes: of the host's memory.
        available_device_bytes: of the GPU's own; None without one, or where it shares the host's.

    Returns:
        One a method, precision and scale, in the order of the results. Where no growth is to be seen, there is none.
    """
    points: dict[tuple[str, str, int], dict[int, float]] = {}
    of_device = set()
    for result in results:
        if result.memory is None or result.error is not None or result.case.kind != "backend":
            continue
        key = result.case.method, result.case.precision, result.case.scale
        taken = result.memory.peak_host_bytes
        if result.memory.device_bytes is not None and available_device_bytes is not None:
            of_device.add(key)
            taken = result.memory.device_bytes
        points.setdefault(key, {})[result.case.batch * result.case.pixels] = float(taken)
    lines = []
    for key, by_pixels in points.items():
        available = available_bytes
        if key in of_device and available_device_bytes is not None:
            available = available_device_bytes
        if len(by_pixels) < 2:
            continue
        start, slope, misfit = line_through(list(by_pixels), list(by_pixels.values()))
        if slope < _LEAST_BYTES_PER_PIXEL:
            continue
        largest_pixels = max(0, int((available - start) / slope))
        lines.append(MemoryGrowth(*key, start, slope, misfit, available, largest_pixels))
    return lines
