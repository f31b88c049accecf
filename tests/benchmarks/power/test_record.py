"""Recording: what readings come to, and that nothing goes on after it, whatever happens meanwhile."""

import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.benchmarks.power import record as power_module
from overnet.benchmarks.power.record import (
    energy_watts,
    find_source,
    idle_watts,
    momentary_watts,
    record,
)
from overnet.benchmarks.power.source import PowerSource, Reading, cpu_clocks_mhz, paced
from overnet.benchmarks.results import Power
from overnet.errors import BackendError
from tests.support.recorded_files import lay_out, put


class Scripted(PowerSource):
    """A source whose readings are made by a function of the seconds since it was asked first."""

    def __init__(self, reading):
        super().__init__("script", "nothing")
        self.reading = reading
        self.closed = 0

    def readings(self, stop, interval_seconds):
        begin = time.perf_counter()
        try:
            yield from paced(lambda: self.reading(time.perf_counter() - begin), stop, interval_seconds)
        finally:
            self.closed += 1


def at(seconds, **values):
    return Reading(at_seconds=seconds, **values)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("power by")]


def test_means_are_weighted_by_time():
    readings = [at(10.0, watts=10.0), at(10.1, watts=10.0), at(10.2, watts=30.0), at(14.2, watts=30.0)]
    mean, largest = momentary_watts(readings)
    assert mean == pytest.approx((10 * 0.1 + 20 * 0.1 + 30 * 4.0) / 4.2)
    assert largest == 30.0


def test_readings_without_power_are_passed_over():
    assert momentary_watts([at(0.0, watts=5.0), at(1.0), at(2.0, watts=5.0)]) == (pytest.approx(5.0), 5.0)
    assert momentary_watts([at(0.0), at(1.0)]) is None
    assert momentary_watts([at(1.0, watts=5.0)]) == (5.0, 5.0)


def test_means_of_energy():
    readings = [at(0.0, joules=100.0), at(1.0, joules=105.0), at(2.0, joules=125.0), at(4.0, joules=130.0)]
    assert energy_watts(readings, 1.0) == (pytest.approx(7.5), pytest.approx(20.0))


def test_two_readings_at_nearly_one_time_are_not_the_largest_power():
    readings = [at(0.0, joules=0.0), at(0.1, joules=1.0), at(0.1001, joules=1.1)]
    assert energy_watts(readings, 0.1)[1] == pytest.approx(1.1 / 0.1001)


@pytest.mark.parametrize(
    "readings", [[], [at(0.0, joules=1.0)], [at(0.0, joules=1.0), at(1.0, joules=1.0)], [at(0.0), at(1.0)]]
)
def test_energy_that_does_not_move_is_none(readings):
    assert energy_watts(readings, 0.1) is None


@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(-1, 1000)), min_size=1, max_size=30))
def test_a_mean_is_between_the_smallest_and_the_largest(steps):
    moments, now = [], 0.0
    for seconds, watts in steps:
        now += seconds
        moments.append(at(now, watts=watts))
    mean, largest = momentary_watts(moments)
    slack = 1e-9 * (1 + abs(largest))
    assert min(watts for _, watts in steps) - slack <= mean <= largest + slack
    assert largest == max(watts for _, watts in steps)


def test_everything_together():
    def reading(seconds):
        late = seconds > 0.1
        return Reading(
            watts=8.0 if late else 4.0,
            clocks_mhz={"gpu": 900.0, **({"cpu": 2000.0} if late else {})},
            temperatures_celsius={"gpu": 40.0 + 100 * seconds},
            slowed_by=frozenset({"heat"} if late else ()),
        )

    source = Scripted(reading)
    with record(source, 0.01) as recording:
        time.sleep(0.2)
    power = recording.power(images=10, seconds=0.2, idle_watts=1.5)
    assert isinstance(power, Power)
    assert (power.source, power.covers, power.idle_watts, power.power_mode) == ("script", "nothing", 1.5, None)
    assert 4.0 < power.mean_watts < 8.0 == power.largest_watts
    assert power.joules_per_image == pytest.approx(power.mean_watts * 0.2 / 10)
    assert power.clocks_mhz == {"gpu": pytest.approx(900.0), "cpu": 2000.0}
    assert power.temperatures_celsius["gpu"] > 59
    (told,) = power.throttled
    assert told.startswith("heat, in ")
    assert (source.closed, threads()) == (1, [])


def test_the_first_and_the_last_reading_enclose_the_block():
    made = []

    def reading(seconds):
        made.append(time.perf_counter())
        return Reading(watts=1.0)

    with record(Scripted(reading), 60.0):
        begin = time.perf_counter()
        end = time.perf_counter()
    assert len(made) == 2, "and a long interval is not waited for"
    assert made[0] <= begin <= end <= made[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
def test_nothing_goes_on_after_an_error_in_the_block(error):
    source = Scripted(lambda seconds: Reading(watts=1.0))
    with pytest.raises(type(error)), record(source, 0.01):
        raise error
    assert (source.closed, threads()) == (1, [])


def test_a_source_that_fails_does_not_disturb_the_block():
    def reading(seconds):
        if seconds > 0.02:
            raise BackendError("it is gone")
        return Reading(watts=1.0)

    source = Scripted(reading)
    with record(source, 0.01) as recording:
        time.sleep(0.1)
    assert recording.power(images=1, seconds=0.1) is None
    assert (recording.mean_watts(), recording.failure) == (None, "it is gone")
    assert (source.closed, threads()) == (1, [])
    assert idle_watts(source, 0.1) is None


def test_a_defect_in_a_source_is_seen():
    def reading(seconds):
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"), record(Scripted(reading), 0.01):
        pass
    assert threads() == []


def test_a_source_that_hangs_is_told(monkeypatch):
    monkeypatch.setattr(power_module, "_PATIENCE_SECONDS", 0.1)
    let_go = threading.Event()

    def reading(seconds):
        let_go.wait(10)
        return Reading(watts=1.0)

    with record(Scripted(reading), 0.01) as recording:
        pass
    assert recording.power(images=1, seconds=0.1) is None
    assert recording.failure == "script hangs"
    let_go.set()
    for thread in threads():
        thread.join(5)
    assert threads() == []


def test_power_of_no_image_is_refused():
    with record(Scripted(lambda seconds: Reading(watts=1.0)), 0.01) as recording:
        pass
    for images, seconds in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ValueError, match="at least one"):
            recording.power(images=images, seconds=seconds)


def test_idle_power():
    assert idle_watts(Scripted(lambda seconds: Reading(watts=3.0)), 0.05) == pytest.approx(3.0)


def test_clocks_of_a_large_machine_are_taken_of_some_cores(tmp_path):
    for core in range(100):
        put(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq", 2_000_000 + core)
    assert cpu_clocks_mhz(tmp_path)["cpu"] == pytest.approx(2000.05, abs=0.02)
    assert cpu_clocks_mhz(tmp_path / "none") == {}


def test_a_jetsons_monitors_come_first(tmp_path):
    root = lay_out("sysfs_agx_orin_jetpack6.txt", tmp_path)
    assert find_source(0, root=root, nvpmodel="").name == "INA3221"


def test_a_cpu_is_asked_for_its_own_counters(tmp_path):
    root = lay_out("sysfs_two_xeons.txt", tmp_path)
    assert find_source(None, root=root).name == "RAPL"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to find")
def test_this_machine_gives_power_or_says_why_not():
    try:
        source = find_source(None)
    except BackendError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        watts = idle_watts(source, 0.3)
        assert watts is None or 0 < watts < 10_000
