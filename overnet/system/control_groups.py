"""How much of a Linux machine a process may use: the limits of its control group, which containers have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Version 1 writes the largest whole number of pages where there is no limit.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True)
class Limits:
    """What a control group leaves; None: it sets no limit.

    Attributes:
        cores: processor time by time, such as 1.5.
        memory_bytes: of all its processes together.
    """

    cores: float | None = None
    memory_bytes: int | None = None


def read_limits(root: Path = Path("/")) -> Limits:
    """Read the limits of this process's control group and of those that it is in, in version 1 or 2. Never raises.

    Args:
        root: where ``/proc`` and ``/sys`` are looked for.
    """
    cores: list[float] = []
    memory: list[int] = []
    for controller, folder in _groups(root):
        if controller in ("", "cpu"):
            words = _words(folder / "cpu.max") or [
                *_words(folder / "cpu.cfs_quota_us"),
                *_words(folder / "cpu.cfs_period_us"),
            ]
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                cores.append(int(words[0]) / int(words[1]))
        if controller in ("", "memory"):
            limits = [*_words(folder / "memory.max"), *_words(folder / "memory.limit_in_bytes")]
            memory += [int(word) for word in limits if word.isdecimal() and int(word) < _NO_LIMIT_BYTES]
    return Limits(min(cores, default=None), min(memory, default=None))


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of this process's groups, each with those above it, by controller; version 2 has one for all."""
    mounted = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            folder = mounted / controller if controller else mounted
            inside = Path(path.lstrip("/"))
            for group in (inside, *inside.parents):
                yield controller, folder / group


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]
