"""NVML: what is asked of it and how its answers, and its errors, are taken. Without a GPU, by a module that answers.

`test_the_real_package_has_all_names` holds the names against nvidia-ml-py where that is installed.
"""

import inspect
import itertools
import threading
import time
from types import ModuleType

import pytest

from overnet.benchmarks.power.nvml import SLOWDOWN_REASONS, find_nvml
from overnet.benchmarks.power.record import find_source, record
from overnet.errors import BackendError, MissingDependency
from overnet.system import cuda_device

# Of each function that is used, its parameters in the real package.
FUNCTIONS = {
    "nvmlInit": [],
    "nvmlShutdown": [],
    "nvmlDeviceGetHandleByPciBusId": ["pciBusId"],
    "nvmlDeviceGetPowerUsage": ["handle"],
    "nvmlDeviceGetTotalEnergyConsumption": ["handle"],
    "nvmlDeviceGetCurrentClocksEventReasons": ["handle"],
    "nvmlDeviceGetClockInfo": ["handle", "type"],
    "nvmlDeviceGetTemperatureV": ["handle", "sensor"],
    "nvmlDeviceGetTemperature": ["handle", "sensor"],
    "nvmlDeviceGetEnforcedPowerLimit": ["handle"],
}
BUS = "0000:17:00.0"


class Card(ModuleType):
    """Stands in for the module `pynvml`, with one card that draws 200 W and counts 250."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.opened, self.unsupported, self.reasons = 0, set(), 0x1
        self.temperatures = itertools.chain([50, 71], itertools.repeat(66))
        self.begin = time.perf_counter()
        self.fails_after = None
        self.most_opened = 0

    def _answer(self, name, value):
        if self.opened < 1:
            raise self.NVMLError("Uninitialized")
        if name in self.unsupported:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self):
        if "nvmlInit" in self.unsupported:
            raise self.NVMLError("Driver Not Loaded")
        self.opened += 1
        self.most_opened = max(self.most_opened, self.opened)

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId):
        if pciBusId != BUS:
            raise self.NVMLError("Not Found")
        return self._answer("handle", object())

    def nvmlDeviceGetPowerUsage(self, handle):
        if self.fails_after is not None and time.perf_counter() > self.fails_after:
            raise self.NVMLError("GPU is lost")
        return self._answer("power", 200_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", 10**12 + int(250_000 * (time.perf_counter() - self.begin)))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons", self.reasons)

    def nvmlDeviceGetClockInfo(self, handle, type):
        return self._answer("clocks", {1: 1755, 2: 2619}[type])

    def nvmlDeviceGetTemperatureV(self, handle, sensor):
        return self._answer("temperature", next(self.temperatures))

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._answer("old temperature", 48)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer("limit", 350_000)


@pytest.fixture
def card(monkeypatch):
    module = Card()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", module)
    yield module
    assert module.opened == 0, "NVML was not given back"
    assert module.most_opened == 1 or "nvmlInit" in module.unsupported


def find(gpu=0, bus=BUS):
    return find_nvml(gpu, bus_id=lambda number: bus)


def power_of(seconds=0.2):
    source = find()
    with record(source, 0.02) as recording:
        time.sleep(seconds)
    return recording.power(images=5, seconds=seconds)


def test_power_by_the_energy_counter(card):
    power = power_of()
    assert (power.source, power.covers, power.power_mode) == ("NVML", "the whole graphics card", "limit of 350 W")
    assert power.mean_watts == pytest.approx(250, rel=0.1), "of energy and time, and not the momentary 200 W"
    assert power.largest_watts == power.mean_watts
    assert power.joules_per_image == pytest.approx(power.mean_watts * 0.2 / 5)
    assert power.clocks_mhz == {"gpu": 1755.0, "memory": 2619.0}
    assert power.temperatures_celsius == {"gpu": 71.0}
    assert power.throttled == [], "an idle card is not slowed down"


def test_a_card_that_tells_its_power_alone(card):
    card.unsupported = {"energy", "reasons", "clocks", "temperature", "old temperature", "limit"}
    power = power_of()
    assert (power.mean_watts, power.largest_watts) == (pytest.approx(200), 200)
    assert (power.clocks_mhz, power.temperatures_celsius, power.throttled) == ({}, {}, None)
    assert power.power_mode is None


def test_an_older_driver_tells_the_temperature_by_the_older_call(card):
    card.unsupported = {"temperature"}
    assert power_of().temperatures_celsius == {"gpu": 48.0}


@pytest.mark.parametrize(("bit", "words"), SLOWDOWN_REASONS.items())
def test_each_reason_for_slower_clocks_is_told(card, bit, words):
    card.reasons = bit | 0x1 | 0x2 | 0x100
    assert power_of(0.05).throttled == [f"{words}, in 100% of the samples"]


def test_a_reason_that_holds_for_part_of_the_time(card):
    source = find()
    with record(source, 0.02) as recording:
        time.sleep(0.1)
        card.reasons = 0x40
        time.sleep(0.1)
        card.reasons = 0
        time.sleep(0.1)
    (told,) = recording.power(images=1, seconds=0.2).throttled
    assert told.startswith("heat (hardware), in ")
    assert 0 < int(told.split("in ")[1].split("%")[0]) < 100


def test_a_card_that_is_lost_meanwhile(card):
    source = find()
    card.fails_after = time.perf_counter() + 0.05
    with record(source, 0.01) as recording:
        time.sleep(0.2)
    assert recording.power(images=1, seconds=0.2) is None
    assert recording.failure == "NVML: GPU is lost"


@pytest.mark.parametrize(
    ("unsupported", "bus", "words"),
    [({"nvmlInit"}, BUS, "Driver Not Loaded"), ({"power"}, BUS, "Not Supported"), (set(), "0000:01:00.0", "Not Found")],
)
def test_a_card_that_cannot_be_asked(card, unsupported, bus, words):
    card.unsupported = unsupported
    with pytest.raises(BackendError, match=f"NVML: {words}"):
        find(bus=bus)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(MissingDependency, match="reading a graphics card's power needs pynvml"):
        find()
    with pytest.raises(MissingDependency):  # the CPU's power would be no figure for a graphics card
        find_source(0, root=tmp_path)


def test_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda_device.ctypes, "CDLL", missing)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        find_nvml(0)


def test_the_stand_in_has_the_real_packages_parameters():
    for name, parameters in FUNCTIONS.items():
        assert list(inspect.signature(getattr(Card(), name)).parameters) == parameters


def test_the_real_package_has_all_names():
    real = pytest.importorskip("pynvml")
    for name, parameters in FUNCTIONS.items():
        assert list(inspect.signature(getattr(real, name)).parameters)[: len(parameters)] == parameters
    for name in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU"):
        assert getattr(real, name) == getattr(Card, name)
    assert issubclass(real.NVMLError, Exception)
    bits = {
        "nvmlClocksEventReasonSwPowerCap": "power limit",
        "nvmlClocksEventReasonHwSlowdown": "hardware slowdown (heat or power)",
        "nvmlClocksEventReasonSyncBoost": "synchronised with other cards",
        "nvmlClocksEventReasonSwThermalSlowdown": "heat (driver)",
        "nvmlClocksEventReasonHwThermalSlowdown": "heat (hardware)",
        "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power supply (brake signal)",
    }
    assert {getattr(real, name): words for name, words in bits.items()} == SLOWDOWN_REASONS


def test_no_thread_is_left(card):
    before = threading.active_count()
    power_of(0.05)
    assert threading.active_count() == before
