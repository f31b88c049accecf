"""A graphics card's power through NVML, NVIDIA's management library, which comes with the driver.

NVML's power is that of the whole card, on most cards since Ampere averaged over a second; its energy counter, which
cards have since Volta, is exact over any time, so that means are taken of that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from threading import Event
from types import ModuleType
from typing import Any, TypeVar

from overnet.benchmarks.power.source import PowerSource, Reading, paced
from overnet.errors import BackendError, require
from overnet.system.cuda_device import cuda_device_count, pci_bus_id

T = TypeVar("T")

_PURPOSE = "reading a graphics card's power"
_EXTRA = "bench"
# The reasons by which NVML's own clocks are lower than they could be. Left out are those that hold nothing back against
# the user's will: an idle card, clocks that were set, a display's clock.
SLOWDOWN_REASONS = {
    0x004: "power limit",
    0x008: "hardware slowdown (heat or power)",
    0x010: "kept in step with other cards",
    0x020: "heat (driver)",
    0x040: "heat (hardware)",
    0x080: "power supply (brake signal)",
}


class NvmlSource(PowerSource):
    """One card.

    Args:
        nvml: the module ``pynvml``.
        bus_id: of the card, such as ``"0000:01:00.0"``.
        power_mode: see `PowerSource`.
    """

    def __init__(self, nvml: ModuleType, bus_id: str, power_mode: str | None) -> None:
        super().__init__("NVML", "the whole graphics card", power_mode)
        self._nvml = nvml
        self._bus_id = bus_id

    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """See `PowerSource.readings`."""
        with opened(self._nvml), _translated(self._nvml):
            handle = self._nvml.nvmlDeviceGetHandleByPciBusId(self._bus_id)
            yield from paced(lambda: self._read(handle), stop, interval_seconds)

    def _read(self, handle: Any) -> Reading:
        nvml = self._nvml
        # What a card does not tell is left out, but not its power: without that the source is of no use.
        watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        joules = self._if_told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        at_seconds = time.perf_counter()
        reasons = self._if_told(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        clocks = {
            "gpu": self._if_told(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            "memory": self._if_told(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
        }
        celsius = self._if_told(lambda: self._celsius(handle))
        return Reading(
            watts=watts,
            joules=joules,
            at_seconds=at_seconds,
            clocks_mhz={part: clock for part, clock in clocks.items() if clock is not None},
            temperatures_celsius={} if celsius is None else {"gpu": celsius},
            slowed_by=None if reasons is None else frozenset(_words(reasons)),
        )

    def _celsius(self, handle: Any) -> float:
        nvml = self._nvml
        # The newer call is not in drivers and packages before 2025, and the older one goes with CUDA 14.
        newer = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
        if newer is not None:
            with contextlib.suppress(nvml.NVMLError):
                return float(newer(handle, nvml.NVML_TEMPERATURE_GPU))
        return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))

    def _if_told(self, ask: Callable[[], T]) -> T | None:
        """An answer; None where the card, its driver or the package does not have it."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError):
            return None


def find_nvml(gpu: int, bus_id: Callable[[int], str | None] = pci_bus_id) -> NvmlSource:
    """A card by the number that CUDA gives it.

    Args:
        gpu: as everywhere here: counted among those that ``CUDA_VISIBLE_DEVICES`` leaves, which NVML knows nothing of.
        bus_id: tells a card's PCI bus by that number, or None where there is no such card.

    Raises:
        BackendError: there is no such card, or it does not tell its power.
        MissingDependency: nvidia-ml-py is not installed.
    """
    nvml = require("pynvml", extra=_EXTRA, purpose=_PURPOSE)
    address = bus_id(gpu)
    if address is None:
        known = cuda_device_count()
        raise BackendError(f"CUDA knows no GPU {gpu} here" if known else "there is no NVIDIA driver here, or no GPU")
    with opened(nvml), _translated(nvml):
        handle = nvml.nvmlDeviceGetHandleByPciBusId(address)
        nvml.nvmlDeviceGetPowerUsage(handle)
        limit = None
        with contextlib.suppress(nvml.NVMLError):
            limit = f"limit of {nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3:.0f} W"
    return NvmlSource(nvml, address, limit)


@contextlib.contextmanager
def opened(nvml: ModuleType) -> Iterator[None]:
    """NVML ready for use, and given back afterwards; may be opened several times at once.

    Raises:
        BackendError: there is no driver.
    """
    with _translated(nvml):
        nvml.nvmlInit()
    try:
        yield
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


@contextlib.contextmanager
def _translated(nvml: ModuleType) -> Iterator[None]:
    """Turns NVML's errors into ours."""
    try:
        yield
    except nvml.NVMLError as error:
        raise BackendError(f"NVML: {error}") from error


def _words(reasons: int) -> list[str]:
    return [words for bit, words in SLOWDOWN_REASONS.items() if reasons & bit]
