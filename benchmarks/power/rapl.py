"""A CPU's power from the energy counters (RAPL) of Intel's and AMD's processors, read from Linux's sysfs.

AMD's processors appear under ``intel-rapl`` too, because one driver serves both. Since 2020 only root may read the
counters, because they leak information about other processes (CVE-2020-8694).
"""

import time
from collections.abc import Generator
from pathlib import Path
from threading import Event

from overnet.benchmarks.power.source import (
    PowerSource,
    Reading,
    cpu_clocks_mhz,
    hardware_monitors,
    paced,
    read_celsius,
    read_number,
)
from overnet.errors import BackendError
from overnet.system.environment import read_text

_ZONES = "sys/class/powercap"
# The label of the whole processor's temperature, by the monitor's driver.
_PROCESSOR_SENSORS = {"coretemp": "Package", "k10temp": "Tctl", "zenpower": "Tctl"}


class EnergyCounter:
    """One energy counter of the processor, which wraps around.

    Args:
        zone: its sysfs folder.
    """

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = read_number(zone / "max_energy_range_uj")
        self._last: int | None = None
        self._total = 0

    def read_joules(self) -> float:
        """Return the energy since the first call in joules; at most one wrap-around between two calls is noticed.

        Raises:
            BackendError: the counter cannot be read.
        """
        try:
            now = int(self._file.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise BackendError(f"{self._file}: {getattr(error, 'strerror', None) or 'holds no number'}") from error
        if self._last is not None:
            grown = now - self._last
            if grown < 0:
                if self._range is None:
                    raise BackendError(f"{self._file} wrapped around, and its range is not known")
                # The counter's range includes its last value.
                grown += self._range + 1
            self._total += grown
        self._last = now
        return self._total / 1e6


class RaplSource(PowerSource):
    """The counters of all processors, and of their memory if it has its own.

    Args:
        root: of the file system.
        zones: the counters' sysfs folders.
        covers: see `PowerSource`.
    """

    def __init__(self, root: Path, zones: list[Path], covers: str) -> None:
        super().__init__("RAPL", covers)
        self._root = root
        self._zones = zones
        self._temperatures = [
            (label, file.with_name(file.name.replace("_label", "_input")))
            for driver, folder in hardware_monitors(root)
            if driver in _PROCESSOR_SENSORS
            for file in sorted(folder.glob("temp*_label"))
            if (label := read_text(file)).startswith(_PROCESSOR_SENSORS[driver])
        ]

    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """See `PowerSource.readings`."""
        counters = [EnergyCounter(zone) for zone in self._zones]

        def read() -> Reading:
            joules = sum(counter.read_joules() for counter in counters)
            return Reading(
                joules=joules,
                at_seconds=time.perf_counter(),
                clocks_mhz=cpu_clocks_mhz(self._root),
                temperatures_celsius=read_celsius(self._temperatures),
            )

        yield from paced(read, stop, interval_seconds)

    def slowdowns(self) -> dict[str, int] | None:
        """Return the thermal throttling events that Intel's processors count; AMD's processors count none.

        All cores of a package count the same event, so that the sum is not the number of events.
        """
        folder = self._root / "sys/devices/system/cpu"
        files = [*folder.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
        counts = [count for file in files if (count := read_number(file)) is not None]
        return {"heat (CPU, over all cores)": sum(counts)} if counts else None


def find_rapl(root: Path) -> RaplSource:
    """Find the counters of this machine.

    Raises:
        BackendError: there are none, or they may not be read; the message says which.
    """
    # `intel-rapl-mmio` repeats the same packages, and what `psys` covers differs between models.
    packages = [
        zone for zone in sorted((root / _ZONES).glob("intel-rapl:*")) if read_text(zone / "name").startswith("package")
    ]
    memory = [
        zone for zone in sorted((root / _ZONES).glob("intel-rapl:*:*")) if read_text(zone / "name").startswith("dram")
    ]
    if not packages:
        raise BackendError("this processor has no energy counters (RAPL), as in virtual machines and containers")
    zones = packages + memory
    for zone in zones:
        try:
            (zone / "energy_uj").read_bytes()
        except PermissionError as error:
            raise BackendError(
                "only root may read the processor's energy counters (RAPL): "
                "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj lets everyone read them until the next boot"
            ) from error
        except OSError as error:
            raise BackendError(f"{zone / 'energy_uj'}: {error.strerror or error}") from error
    covers = "CPU package" if len(packages) == 1 else f"{len(packages)} CPU packages"
    return RaplSource(root, zones, f"{covers} and memory" if memory else covers)
