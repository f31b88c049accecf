"""A graphics card's power from NVML, NVIDIA's management library, which comes with the driver.

NVML's power is that of the whole card, on most cards since Ampere averaged over a second. Cards since Volta also have
an energy counter, which is exact over any time; mean values are computed from it.
"""

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

# NVML's bits for the reasons of reduced clocks, without those that the user causes: an idle card, clocks that were set,
# a display's clock.
SLOWDOWN_REASONS = {
    0x004: "power limit",
    0x008: "hardware slowdown (heat or power)",
    0x010: "synchronised with other cards",
    0x020: "heat (driver)",
    0x040: "heat (hardware)",
    0x080: "power supply (brake signal)",
}


class NvmlSource(PowerSource):
    """One graphics card.

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
        # Values that a card does not report are left out, except its power.
        watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        joules = self._if_reported(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        at_seconds = time.perf_counter()
        reasons = self._if_reported(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        clocks = {
            "gpu": self._if_reported(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            "memory": self._if_reported(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
        }
        celsius = self._if_reported(lambda: self._celsius(handle))
        return Reading(
            watts=watts,
            joules=joules,
            at_seconds=at_seconds,
            clocks_mhz={part: clock for part, clock in clocks.items() if clock is not None},
            temperatures_celsius={} if celsius is None else {"gpu": celsius},
            slowed_by=None
            if reasons is None
            else frozenset(words for bit, words in SLOWDOWN_REASONS.items() if reasons & bit),
        )

    def _celsius(self, handle: Any) -> float:
        nvml = self._nvml
        # Drivers and packages before 2025 lack the newer call, and CUDA 14 removes the older one.
        newer = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
        if newer is not None:
            with contextlib.suppress(nvml.NVMLError):
                return float(newer(handle, nvml.NVML_TEMPERATURE_GPU))
        return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))

    def _if_reported(self, ask: Callable[[], T]) -> T | None:
        """Return a value; None if the card, its driver or the package does not report it."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError):
            return None


def find_nvml(gpu: int, bus_id: Callable[[int], str | None] = pci_bus_id) -> NvmlSource:
    """Find a card by CUDA's number.

    Args:
        gpu: counted among those that ``CUDA_VISIBLE_DEVICES`` leaves; NVML ignores that variable.
        bus_id: returns a card's PCI bus ID for that number, or None if there is no such card.

    Raises:
        BackendError: there is no such card, or it does not report its power.
        MissingDependency: nvidia-ml-py is not installed.
    """
    nvml = require("pynvml", extra="bench", purpose="reading a graphics card's power")
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
    """Initialise NVML and shut it down afterwards; calls may be nested.

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
    """Raise NVML's errors as `BackendError`."""
    try:
        yield
    except nvml.NVMLError as error:
        raise BackendError(f"NVML: {error}") from error
