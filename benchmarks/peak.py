"""The peak performance of a machine: float32 arithmetic in a large matrix product, and bytes copied in memory.

A peak is the best of several sizes, libraries and repetitions, so that other processes do not lower it. The arithmetic
of a network is reported as a share of it (the "roofline" of S. Williams, A. Waterman and D. Patterson, 2009).
"""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from overnet.benchmarks.machine import blas_of_numpy
from overnet.benchmarks.results import Peak
from overnet.errors import InputError, MissingDependency, require
from overnet.system.memory import usable_cores

# From small enough for a small board to large enough for all cores of a large machine.
_MATRIX_SIDES = (512, 1024, 2048)
_GPU_MATRIX_SIDES = (2048, 4096, 8192)
_LEAST_REPETITIONS = 3
# The copied bytes are this multiple of the last cache, so that they come from memory.
_TIMES_CACHE = 4
_LEAST_COPIED_BYTES, _MOST_COPIED_BYTES = 64 << 20, 1 << 30
# The largest share of the available memory for each of source and destination.
_MEMORY_SHARE = 0.125
_CACHE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def measure_peaks(gpu: int | None, seconds: float = 1.0) -> list[Peak]:
    """Measure the CPU, and a GPU if torch finds it.

    The CPU's product is NumPy's, or PyTorch's if that is installed and faster; `Peak.measured_by` says which. The
    measurement of the GPU has not been tried on a GPU.

    Args:
        gpu: its number, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves; None for the CPU alone.
        seconds: the approximate time of each library's multiplications and each device's copies.

    Returns:
        The CPU's peak, then the GPU's if it could be measured.

    Raises:
        InputError: `seconds` is not positive.
    """
    if not seconds > 0:
        raise InputError(f"seconds is {seconds:g}; it must be more than 0")
    peaks = [_cpu(seconds)]
    if gpu is not None:
        on_gpu = _gpu(gpu, seconds)
        peaks += [] if on_gpu is None else [on_gpu]
    return peaks


def share_of_peak(multiply_accumulates: float, seconds: float, peak: Peak) -> float:
    """Return the arithmetic per second as a share of a peak.

    It can exceed 1 in a lower precision than float32, for which the peak was measured.

    Args:
        multiply_accumulates: done in `seconds`; each counts as two operations.
        seconds: more than 0.
    """
    return 2 * multiply_accumulates / seconds / (peak.gflops_fp32 * 1e9)


def _cpu(seconds: float) -> Peak:
    random = np.random.default_rng(0)
    by_library = {
        f"NumPy ({blas_of_numpy()})": _best_gflops(
            lambda side: random.random((side, side), np.float32),
            lambda one, other, product: np.matmul(one, other, out=product),
            _MATRIX_SIDES,
            seconds,
        )
    }
    with suppress(MissingDependency):  # NumPy's figure stands
        torch = require("torch", extra="torch", purpose="measuring the CPU")
        by_library[f"PyTorch {str(torch.__version__).partition('+')[0]}"] = _best_gflops(
            lambda side: torch.rand(side, side),
            lambda one, other, product: torch.mm(one, other, out=product),
            _MATRIX_SIDES,
            seconds,
        )
    fastest = max(by_library, key=lambda library: by_library[library])
    return Peak("CPU", by_library[fastest], _copied_gigabytes_per_second(seconds), fastest)


def _best_gflops(
    make: Callable[[int], Any], multiply: Callable[[Any, Any, Any], object], sides: tuple[int, ...], seconds: float
) -> float:
    """Return the best over the sides of square matrices that fit into the time."""
    begin, best = time.perf_counter(), 0.0
    for side in sides:
        product = partial(multiply, make(side), make(side), make(side))
        best = max(best, 2 * side**3 / _shortest_seconds(product, seconds / len(sides)) / 1e9)
        if time.perf_counter() - begin > seconds:
            break
    return best


def _shortest_seconds(work: Callable[[], object], budget_seconds: float) -> float:
    """Return the shortest of several runs after a warm-up run."""
    work()
    shortest, runs, begin = float("inf"), 0, time.perf_counter()
    while runs < _LEAST_REPETITIONS or time.perf_counter() - begin < budget_seconds:
        start = time.perf_counter()
        work()
        shortest, runs = min(shortest, time.perf_counter() - start), runs + 1
    return shortest


def _copied_gigabytes_per_second(seconds: float) -> float:
    """Copy on all cores in parallel, each its own part; bytes read and written both count."""
    cores = usable_cores()
    count = copied_bytes(last_cache_bytes(), int(psutil.virtual_memory().available)) // cores
    # Filled, because the kernel maps untouched memory to a single page of zeros.
    parts = [(np.full(count, 1, np.uint8), np.full(count, 2, np.uint8)) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))

        return 2 * count * cores / _shortest_seconds(copy, seconds) / 1e9


def copied_bytes(cache_bytes: int | None, available_bytes: int) -> int:
    """Return how many bytes to copy so that caches do not help: a multiple of the last one, limited by the memory.

    Args:
        cache_bytes: of the last cache; None if unknown.
        available_bytes: free memory.
    """
    wanted = max(_LEAST_COPIED_BYTES, min(_TIMES_CACHE * (cache_bytes or 0), _MOST_COPIED_BYTES))
    return max(1, min(wanted, int(_MEMORY_SHARE * available_bytes)))


def last_cache_bytes(root: Path = Path("/")) -> int | None:
    """Return the size of the first processor's largest cache; None if Linux does not report it.

    Args:
        root: of the file system.
    """
    sizes = []
    for path in root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", path.read_text(encoding="utf-8").strip())
        if found:
            sizes.append(int(found[1]) * _CACHE_UNITS[found[2]])
    return max(sizes, default=None)


def _gpu(number: int, seconds: float) -> Peak | None:
    """Measure a GPU with PyTorch; None if it is not installed or finds no such GPU."""
    try:
        torch = require("torch", extra="torch", purpose="measuring a GPU")
    except MissingDependency:
        return None
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        return None
    device = torch.device("cuda", number)

    def multiply(one: Any, other: Any, product: Any) -> None:
        torch.mm(one, other, out=product)
        torch.cuda.synchronize(device)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    # TF32 would not be float32 arithmetic.
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        gflops = _best_gflops(lambda side: torch.rand(side, side, device=device), multiply, _GPU_MATRIX_SIDES, seconds)
    finally:
        matmul.allow_tf32 = before
    free_bytes, _ = torch.cuda.mem_get_info(device)
    count = copied_bytes(_MOST_COPIED_BYTES // _TIMES_CACHE, free_bytes)
    source, target = (torch.ones(count, dtype=torch.uint8, device=device) for _ in range(2))
    copied = 2 * count / _shortest_seconds(copy, seconds) / 1e9
    version = str(torch.__version__).partition("+")[0]
    return Peak(
        str(torch.cuda.get_device_name(number)), gflops, copied, f"PyTorch {version}, CUDA {torch.version.cuda}"
    )
