"""The processor's energy counters: what they count, where they start anew, and who may read them."""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from overnet.benchmarks.power.rapl import EnergyCounter, find_rapl
from overnet.benchmarks.power.record import find_source, record
from overnet.errors import BackendError
from tests.support.recorded_files import lay_out, put

ZONES = "sys/class/powercap"
RANGE = 262143328850
# What the counters of a recording grow by together, in the body of the test: before the first one's end, beyond it,
# of the memory, and of the second processor.
JOULES = (RANGE - 262143000000 + 1 + 500_000) / 1e6 + 2.0 + 3.0


@pytest.fixture
def xeons(tmp_path):
    return lay_out("sysfs_two_xeons.txt", tmp_path / "root")


def count_on(root):
    put(root, f"{ZONES}/intel-rapl:0/energy_uj", 500_000)
    put(root, f"{ZONES}/intel-rapl:0:0/energy_uj", 3_000_000)
    put(root, f"{ZONES}/intel-rapl:1/energy_uj", 10_000_000)
    put(root, f"{ZONES}/intel-rapl:2/energy_uj", 900_000_000)
    put(root, f"{ZONES}/intel-rapl-mmio:0/energy_uj", 900_000_000)


def test_all_packages_and_their_memory_across_a_counters_end(xeons):
    source = find_rapl(xeons)
    with record(source, 0.05) as recording:
        begin = time.perf_counter()
        time.sleep(0.2)
        count_on(xeons)
        seconds = time.perf_counter() - begin
    power = recording.power(images=2, seconds=seconds)
    assert (power.source, power.covers) == ("RAPL", "2 CPU packages and memory")
    # The recording is a little longer than its body.
    assert 0.5 * JOULES / seconds < power.mean_watts <= JOULES / seconds
    assert power.joules_per_image == pytest.approx(power.mean_watts * seconds / 2)
    assert power.largest_watts >= power.mean_watts
    assert power.clocks_mhz == {"cpu": 2400.0}
    assert power.temperatures_celsius == {"Package id 0": 61.0}
    assert power.throttled == []


def test_a_counter_that_starts_anew_twice(tmp_path):
    put(tmp_path, "energy_uj", 90)
    put(tmp_path, "max_energy_range_uj", 99)
    counter = EnergyCounter(tmp_path)
    read = [counter.read_joules()]
    for value in (95, 5, 60, 2):
        put(tmp_path, "energy_uj", value)
        read.append(counter.read_joules())
    assert read == [0, 5e-6, pytest.approx(15e-6), pytest.approx(70e-6), pytest.approx(112e-6)]


def test_a_counter_without_a_known_end(tmp_path):
    put(tmp_path, "energy_uj", 90)
    counter = EnergyCounter(tmp_path)
    counter.read_joules()
    put(tmp_path, "energy_uj", 5)
    with pytest.raises(BackendError, match="wrapped around"):
        counter.read_joules()


def test_a_counter_that_stands_still_is_no_power_of_zero(xeons):
    with record(find_rapl(xeons), 0.01) as recording:
        time.sleep(0.05)
    assert recording.power(images=1, seconds=1.0) is None
    assert "gave no figures, or the same one all the time" in recording.failure


def test_a_counter_that_goes_away(xeons):
    with record(find_rapl(xeons), 0.01) as recording:
        shutil.rmtree(xeons / ZONES)
        time.sleep(0.05)
    assert recording.power(images=1, seconds=1.0) is None
    assert "energy_uj" in recording.failure


def test_heat_that_slowed_the_processor_down(xeons):
    with record(find_rapl(xeons), 0.01) as recording:
        time.sleep(0.02)
        count_on(xeons)
        put(xeons, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 9)
    assert recording.power(images=1, seconds=1.0).throttled == ["heat (CPU, over all cores), counted 7 times"]


def test_a_processor_that_counts_no_heat(xeons):
    shutil.rmtree(xeons / "sys/devices/system/cpu/cpu0")
    assert find_rapl(xeons).slowdowns() is None


def test_one_processor_without_memory(xeons):
    shutil.rmtree(xeons / ZONES / "intel-rapl:0:0")
    shutil.rmtree(xeons / ZONES / "intel-rapl:1")
    assert find_rapl(xeons).covers == "CPU package"


def test_a_machine_without_counters(tmp_path):
    with pytest.raises(BackendError, match="virtual machines"):
        find_source(None, root=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such rights")
def test_counters_that_only_root_may_read():
    # Not in pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        root = lay_out("sysfs_two_xeons.txt", Path(folder))
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o400 if path.name == "energy_uj" else 0o444)
        (root / ZONES / "intel-rapl:0/energy_uj").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(BackendError, match=r"only root may read .*chmod") as caught:
                find_rapl(root)
        finally:
            os.seteuid(user)
    assert "\n" not in str(caught.value)
