"""The memory and the processor time that this process may use, which a Linux control group (container) may limit."""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from overnet.system.environment import read_text

# Version 1 of control groups reports the largest whole number of pages where there is no limit.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True)
class Limits:
    """The limits of a control group; None where it sets none.

    Attributes:
        cores: processor time per wall-clock time, such as 1.5.
        memory_bytes: memory of all processes in the group together.
    """

    cores: float | None = None
    memory_bytes: int | None = None


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that can be allocated without swapping: the machine's, or less where a control group limits it.

    Args:
        root: the folder that holds ``/proc`` and ``/sys``.
    """
    left = [
        max(0, limit - used)
        for controller, folder in _groups(root)
        if controller in ("", "memory")
        for limit in _limits(folder)
        for used in _numbers(folder / "memory.current") + _numbers(folder / "memory.usage_in_bytes")
    ]
    return min([int(psutil.virtual_memory().available), *left])


def read_limits(root: Path = Path("/")) -> Limits:
    """Read the tightest limits of this process's control group and of those around it, version 1 or 2. Never raises.

    Args:
        root: the folder that holds ``/proc`` and ``/sys``.
    """
    cores: list[float] = []
    memory: list[int] = []
    for controller, folder in _groups(root):
        if controller in ("", "cpu"):
            times = _numbers(folder / "cpu.max") or [
                *_numbers(folder / "cpu.cfs_quota_us"),
                *_numbers(folder / "cpu.cfs_period_us"),
            ]
            if len(times) == 2 and times[1]:
                cores.append(times[0] / times[1])
        if controller in ("", "memory"):
            memory += _limits(folder)
    return Limits(min(cores, default=None), min(memory, default=None))


def usable_cores(limits: Limits | None = None) -> int:
    """Return how many processors this process may use, by its affinity and by its control group's CPU quota.

    Args:
        limits: of the control group; None to read them.
    """
    limits = limits or read_limits()
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return cores if limits.cores is None else max(1, min(cores, math.ceil(limits.cores)))


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the groups of this process and their parents: the controller ("" for all, in version 2) and the folder."""
    mounted = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        for controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            for group in (inside, *inside.parents):
                yield controller, mounted / controller / group


def _limits(folder: Path) -> list[int]:
    limits = _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    return [limit for limit in limits if limit < _NO_LIMIT_BYTES]


def _numbers(path: Path) -> list[int]:
    """Read the whole numbers in a file; words such as ``max``, and negative numbers, mean no limit and are left out."""
    return [int(word) for word in read_text(path).split() if word.isdecimal()]
