"""What a source of power is, whatever it reads, and how the kernel's small files are read."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

# What sensors that are switched off say on a Jetson: -256 degrees.
_OFFLINE_CELSIUS = -200.0


@dataclass(frozen=True)
class Reading:
    """What a source says at one moment.

    Attributes:
        watts: drawn at that moment; None where the source has an energy counter only.
        joules: of an energy counter that only grows, from any start; None where there is none.
        clocks_mhz: by part, such as ``{"gpu": 918.0}``.
        temperatures_celsius: by sensor.
        slowed_by: what holds the machine back at that moment, in words; None where that cannot be seen.
        at_seconds: when, by `time.perf_counter`.
    """

    watts: float | None = None
    joules: float | None = None
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_celsius: Mapping[str, float] = field(default_factory=dict)
    slowed_by: frozenset[str] | None = None
    at_seconds: float = field(default_factory=time.perf_counter)


class PowerSource(ABC):
    """Something that power can be read from.

    Attributes:
        name: such as ``"RAPL"``.
        covers: what the power is of, in words.
        power_mode: that the machine was set to, such as ``"MAXN"``; None where there is no such thing.
    """

    def __init__(self, name: str, covers: str, power_mode: str | None = None) -> None:
        self.name = name
        self.covers = covers
        self.power_mode = power_mode

    @abstractmethod
    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """Read until told to stop; what was opened for it is closed when the generator ends or is closed.

        Args:
            stop: is set, by another thread, when the last reading is to be made.
            interval_seconds: between readings.

        Raises:
            BackendError: it cannot be read, or no longer.
        """

    def slowdowns(self) -> dict[str, int] | None:
        """How often something slowed the machine down since it was started, by what, in words.

        None where nothing counts that. What is new in it after a while happened in the meantime, however briefly.
        """
        return None


def paced(read: Callable[[], Reading], stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
    """Readings at an interval, the first at once and the last when told to stop."""
    yield read()
    while not stop.wait(interval_seconds):
        yield read()
    yield read()


def read_text(path: Path) -> str | None:
    """A small file's text without white space around it; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """The whole number in a file; None where it cannot be read, as of a sensor that is off, or holds no number."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def hardware_monitors(root: Path) -> list[tuple[str, Path]]:
    """The kernel's hardware monitors: a driver's name, and its folder in sysfs.

    Args:
        root: of the file system.
    """
    folders = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    return [(read_text(folder / "name") or read_text(folder / "device/name") or "", folder) for folder in folders]


def read_celsius(sensors: list[tuple[str, Path]]) -> dict[str, float]:
    """Temperatures by sensor, without those that are off or cannot be read.

    Args:
        sensors: names, and files of thousandths of a degree.
    """
    read = {name: value / 1000 for name, file in sensors if (value := read_number(file)) is not None}
    return {name: celsius for name, celsius in read.items() if celsius > _OFFLINE_CELSIUS}


def cpu_clocks_mhz(root: Path) -> dict[str, float]:
    """The mean clock of the CPU's cores, ``{"cpu": ...}``; empty where the system does not say.

    Of eight groups of cores at most, as each is asked for itself: a large machine is not to be kept busy by that.
    """
    files = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_cur_freq"))
    kilohertz = [read_number(file) for file in files[:: max(1, len(files) // 8)][:8]]
    known = [value for value in kilohertz if value is not None]
    return {"cpu": sum(known) / len(known) / 1000} if known else {}
