"""The interface of power sources, and readers of the kernel's sysfs files."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from overnet.system.environment import read_text

# Sensors that are switched off report -256 degrees on a Jetson.
_OFFLINE_CELSIUS = -200.0


@dataclass(frozen=True)
class Reading:
    """One reading of a power source.

    Attributes:
        watts: the momentary power; None if the source has only an energy counter.
        joules: the value of a monotonic energy counter; None if the source has none.
        clocks_mhz: by part, such as ``{"gpu": 918.0}``.
        temperatures_celsius: by sensor.
        slowed_by: the reasons why the clocks are reduced at that moment; None if that cannot be read.
        at_seconds: the time of the reading, by `time.perf_counter`.
    """

    watts: float | None = None
    joules: float | None = None
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_celsius: Mapping[str, float] = field(default_factory=dict)
    slowed_by: frozenset[str] | None = None
    at_seconds: float = field(default_factory=time.perf_counter)


class PowerSource(ABC):
    """A source of power readings.

    Attributes:
        name: such as ``"RAPL"``.
        covers: the part of the machine whose power it reads.
        power_mode: the machine's setting, such as ``"MAXN"``; None if it has no such modes.
    """

    def __init__(self, name: str, covers: str, power_mode: str | None = None) -> None:
        self.name = name
        self.covers = covers
        self.power_mode = power_mode

    @abstractmethod
    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """Yield readings until told to stop; the end of the generator releases all resources.

        Args:
            stop: is set by another thread; one last reading follows.
            interval_seconds: between readings.

        Raises:
            BackendError: the source cannot be read, or fails later.
        """

    def slowdowns(self) -> dict[str, int] | None:
        """Return how often the machine was slowed down since it booted, by reason; None if nothing counts that.

        The difference of two calls also reveals events that are shorter than the interval of the readings.
        """
        return None


def paced(read: Callable[[], Reading], stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
    """Yield readings at an interval, the first at once and the last when told to stop."""
    yield read()
    while not stop.wait(interval_seconds):
        yield read()
    yield read()


def read_number(path: Path) -> int | None:
    """Return the integer in a file; None if it cannot be read (a sensor that is off) or holds no integer."""
    try:
        return int(read_text(path))
    except ValueError:
        return None


def hardware_monitors(root: Path) -> list[tuple[str, Path]]:
    """Return the name of the driver and the sysfs folder of each of the kernel's hardware monitors."""
    folders = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    return [(read_text(folder / "name") or read_text(folder / "device/name"), folder) for folder in folders]


def read_celsius(sensors: list[tuple[str, Path]]) -> dict[str, float]:
    """Read temperatures by sensor, without those that are off or cannot be read.

    Args:
        sensors: names, and files that hold thousandths of a degree.
    """
    read = {name: value / 1000 for name, file in sensors if (value := read_number(file)) is not None}
    return {name: celsius for name, celsius in read.items() if celsius > _OFFLINE_CELSIUS}


def cpu_clocks_mhz(root: Path) -> dict[str, float]:
    """Return the mean clock of the CPU's cores, ``{"cpu": ...}``; empty if the system does not report it.

    At most eight groups of cores are read, one file each, to keep the overhead low on large machines.
    """
    files = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_cur_freq"))
    kilohertz = [read_number(file) for file in files[:: max(1, len(files) // 8)][:8]]
    known = [value for value in kilohertz if value is not None]
    return {"cpu": sum(known) / len(known) / 1000} if known else {}
