"""jtop: its properties are taken as it gives them, and it is closed again. By a module with its names (7.2.2)."""

import importlib.util
import sys
import threading
import time
from types import ModuleType

import pytest

from overnet.benchmarks.power.jetson import find_board
from overnet.benchmarks.power.jtop import find_jtop, rails_of
from overnet.benchmarks.power.record import record, search_source
from overnet.errors import BackendError, MissingDependency
from tests.benchmarks.power.recorded_files import put

# Of an Orin NX, as jtop's property `power` is: what all rails hang on is apart, with its name.
POWER_NX = {
    "rail": {
        "VDD_CPU_GPU_CV": {"volt": 5000, "curr": 140, "power": 700, "avg": 650, "online": True},
        "VDD_SOC": {"volt": 5000, "curr": 300, "power": 1500, "avg": 1500, "online": True},
    },
    "tot": {"volt": 5000, "curr": 1000, "power": 5000, "avg": 4900, "name": "VDD_IN"},
}
# Of an AGX Orin: the total is the sum of all rails, memory counted twice.
POWER_AGX = {
    "rail": {
        "VDD_CPU_CV": {"power": 800},
        "VDD_GPU_SOC": {"power": 4800},
        "VIN_SYS_5V0": {"power": 3800},
        "VDDQ_VDD2_1V8AO": {"power": 700},
    },
    "tot": {"power": 10100, "avg": 10100},
}


class FakeJtop(ModuleType):
    """Stands in for the module `jtop`."""

    class JtopException(Exception):
        pass

    def __init__(self, power):
        super().__init__("jtop")
        module, self.power, self.connects, self.alive, self.clients = self, power, True, True, []

        class Client(threading.Thread):
            power = property(lambda self: module.power)
            temperature = {"gpu": {"temp": 47.5, "online": True}, "cv0": {"temp": -256, "online": False}}  # noqa: RUF012
            gpu = {"gpu": {"type": "integrated", "freq": {"cur": 918000, "max": 1300500}}}  # noqa: RUF012
            nvpmodel = "MAXN"

            def __init__(self, interval=1.0):
                super().__init__(daemon=True)
                self.interval, self.ended = interval, threading.Event()
                module.clients.append(self)

            def start(self):
                if not module.connects:
                    raise module.JtopException("The jtop.service is not active. Please run:\nsudo jtop")
                super().start()

            def run(self):
                self.ended.wait()

            def ok(self, spin=False):
                time.sleep(0.01)
                return module.alive

            def close(self):
                self.ended.set()

        self.jtop = Client


@pytest.fixture
def board(tmp_path):
    put(tmp_path, "proc/device-tree/compatible", "nvidia,p3767-0000\0nvidia,tegra234")
    return find_board(tmp_path, nvpmodel=str(tmp_path / "none"))


def installed(monkeypatch, power=POWER_NX):
    module = FakeJtop(power)
    monkeypatch.setitem(sys.modules, "jtop", module)
    return module


def test_power_by_the_service(monkeypatch, board):
    module = installed(monkeypatch)
    with record(find_jtop(board), 0.05) as recording:
        time.sleep(0.1)
    power = recording.power(images=2, seconds=1.0)
    assert (power.source, power.covers, power.power_mode) == ("jtop", "the whole module (VDD_IN)", "MAXN")
    assert (power.mean_watts, power.joules_per_image) == (pytest.approx(5.0), pytest.approx(2.5))
    assert power.clocks_mhz == {"gpu": 918.0}
    assert power.temperatures_celsius == {"gpu": 47.5}
    assert power.throttled is None
    assert len(module.clients) == 2
    assert not any(client.is_alive() for client in module.clients), "a connection was left open"


def test_memory_is_not_counted_twice(monkeypatch, board):
    installed(monkeypatch, POWER_AGX)
    with record(find_jtop(board), 0.05) as recording:
        pass
    assert recording.mean_watts() == pytest.approx(9.4)


def test_a_service_that_goes_away(monkeypatch, board):
    module = installed(monkeypatch)
    with record(find_jtop(board), 0.05) as recording:
        module.alive = False
        time.sleep(0.1)
    assert recording.power(images=1, seconds=1.0) is None
    assert "does not answer" in recording.failure
    assert not any(client.is_alive() for client in module.clients)


def test_a_service_that_does_not_run(monkeypatch, board):
    installed(monkeypatch).connects = False
    with pytest.raises(BackendError, match=r"jtop: The jtop.service is not active. Please run: sudo jtop"):
        find_jtop(board)


def test_a_service_without_power(monkeypatch, board):
    installed(monkeypatch, {"rail": {}, "tot": {"power": 0, "avg": 0}})
    with pytest.raises(BackendError, match="says nothing of power"):
        find_jtop(board)


def test_rails_of_nothing():
    assert rails_of({}) == {}


def test_it_comes_last_on_a_jetson(monkeypatch, board, tmp_path):
    installed(monkeypatch)
    found = search_source(None, root=board.root, tegrastats=str(tmp_path / "tegrastats"), nvpmodel="")
    assert found.source.name == "jtop"
    assert [reason.split()[0] for reason in found.reasons] == ["no", str(tmp_path / "tegrastats")]


@pytest.mark.skipif(importlib.util.find_spec("jtop") is not None, reason="jetson-stats is installed")
def test_without_the_package(board):
    with pytest.raises(MissingDependency, match="pip install jetson-stats"):
        find_jtop(board)
