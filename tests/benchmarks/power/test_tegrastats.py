"""tegrastats: its lines of all releases, and the program while it runs, fails and hangs."""

import math
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.benchmarks.power import tegrastats as power_tegrastats
from overnet.benchmarks.power.jetson import find_board
from overnet.benchmarks.power.power_rails import total_power
from overnet.benchmarks.power.record import record
from overnet.benchmarks.power.tegrastats import find_tegrastats, parse_line
from overnet.errors import BackendError
from tests.benchmarks.power.recorded_files import RECORDED, lay_out, recorded_lines, write_program

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="a Jetson runs Linux, and programs are scripts here")

# By file and line: watts, what they cover, the clocks of GPU and CPU, and the temperature of one sensor.
LINES = [
    ("tegrastats_nano_jetpack4.txt", 0, 1.75, "the whole module (POM_5V_IN)", 76, 1224, ("gpu", 40.0)),
    (
        "tegrastats_agx_orin_jetpack5.txt",
        0,
        9.428,
        "the module's rails VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0 together",
        114,
        pytest.approx(729.17, abs=0.01),
        ("soc2", 40.062),
    ),
    ("tegrastats_orin_nano_jetpack6.txt", 0, 12.479, "the whole module (VDD_IN)", 621, 729, ("tj", 53.968)),
    ("tegrastats_orin_nano_jetpack6.txt", 1, 4.761, "the whole module (VDD_IN)", None, 729, ("gpu", 48.562)),
    (
        "tegrastats_agx_orin_jetpack7.txt",
        0,
        13.907,
        "the module's rails VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0 together",
        1300,
        2201,
        ("gpu", 47.625),
    ),
    ("tegrastats_thor_jetpack7.txt", 0, 19.78, "the module and its carrier board (VIN)", 314, 972, ("tj", 38.875)),
    ("tegrastats_thor_jetpack7.txt", 1, 124.486, "the module and its carrier board (VIN)", 1574, 2601, ("gpu", 56.937)),
    (
        "tegrastats_thor_jetpack7.txt",
        2,
        8.596,
        "the module's rails VDD_CPU_SOC_MSS, VDD_GPU, VIN_SYS_5V0 together",
        1574,
        2601,
        ("gpu", 51.218),
    ),
]


@pytest.mark.parametrize(("file", "line", "watts", "covers", "gpu_mhz", "cpu_mhz", "sensor"), LINES)
def test_a_line_of_each_release(file, line, watts, covers, gpu_mhz, cpu_mhz, sensor):
    found = parse_line(recorded_lines(file)[line])
    assert total_power(found.rails_milliwatts) == (pytest.approx(watts), covers)
    assert (found.clocks_mhz.get("gpu"), found.clocks_mhz.get("cpu")) == (gpu_mhz, cpu_mhz)
    assert found.temperatures_celsius[sensor[0]] == sensor[1]


@pytest.mark.parametrize(
    ("file", "offline"),
    [("tegrastats_agx_orin_jetpack5.txt", ["cv0", "cv1", "cv2"]), ("tegrastats_nano_jetpack4.txt", ["pmic"])],
)
def test_sensors_that_measure_nothing_are_left_out(file, offline):
    temperatures = parse_line(recorded_lines(file)[0]).temperatures_celsius
    assert temperatures
    assert not set(offline) & set(temperatures)


def test_memory_and_engines_are_no_rails():
    rails = parse_line(recorded_lines("tegrastats_agx_orin_jetpack7.txt")[0]).rails_milliwatts
    assert sorted(rails) == ["VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]


def test_a_board_that_says_nothing_of_power():
    found = parse_line(recorded_lines("tegrastats_agx_orin_no_power.txt")[0])
    assert total_power(found.rails_milliwatts) is None
    assert found.temperatures_celsius["cpu"] == 44.437


WORDS = [word for file in sorted(RECORDED.glob("tegrastats_*.txt")) for word in file.read_text().split()]
NUMBERS = st.text("0123456789-.@[]%/,CmW", max_size=400)
MIXED = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=20), NUMBERS), max_size=30).map(" ".join)


@given(line=st.one_of(st.text(), MIXED))
def test_no_line_makes_the_parser_fail(line):
    found = parse_line(line)
    values = [*found.rails_milliwatts.values(), *found.temperatures_celsius.values(), *found.clocks_mhz.values()]
    assert all(map(math.isfinite, values))


def test_numbers_beyond_all_bounds_are_passed_over():
    nines = "9" * 5000
    found = parse_line(f"VDD_IN {nines}mW/1mW gpu@{nines}C GR3D_FREQ 1%@{nines} VDD_SOC 5mW/5mW")
    assert (found.rails_milliwatts, found.temperatures_celsius, found.clocks_mhz) == ({"VDD_SOC": 5.0}, {}, {})


def fake_tegrastats(folder, body):
    """A program that is given the same options, and notes its number so that it can be looked for afterwards."""
    return write_program(
        folder / "tegrastats",
        f"""import os, signal, sys, time
assert sys.argv[1] == "--interval"
interval = int(sys.argv[2]) / 1000
with open({str(folder / "numbers")!r}, "a") as file:
    print(os.getpid(), file=file)
lines = open({str(RECORDED / "tegrastats_orin_nano_jetpack6.txt")!r}).read().splitlines()
def say(line):
    print(line, flush=True)
    time.sleep(interval)
{body}""",
    )


def left_running(folder):
    numbers = [int(line) for line in (folder / "numbers").read_text().split()]
    assert numbers, "it was not started at all"
    return [number for number in numbers if psutil.pid_exists(number)]


@pytest.fixture
def board(tmp_path):
    return find_board(lay_out("sysfs_agx_orin_jetpack6.txt", tmp_path / "root"), nvpmodel=str(tmp_path / "none"))


@on_posix
def test_power_while_something_runs(tmp_path, board):
    source = find_tegrastats(board, fake_tegrastats(tmp_path, "while True:\n    say(lines[0]); say(lines[1])"))
    with record(source, 0.02) as recording:
        time.sleep(0.5)
    power = recording.power(images=10, seconds=0.5, idle_watts=4.7)
    assert (power.source, power.covers, power.idle_watts) == ("tegrastats", "the whole module (VDD_IN)", 4.7)
    # One line of each kind by turns.
    assert power.mean_watts == pytest.approx((12.479 + 4.761) / 2, rel=0.2)
    assert power.largest_watts == 12.479
    assert power.joules_per_image == pytest.approx(power.mean_watts * 0.05)
    assert power.samples > 3
    # The second line has no clock of the GPU; the board's is taken for it.
    assert 621 < power.clocks_mhz["gpu"] < 918
    assert power.temperatures_celsius["gpu"] == 53.343
    assert power.throttled == []
    assert not left_running(tmp_path)


@on_posix
def test_nothing_is_left_running_after_an_error(tmp_path, board):
    source = find_tegrastats(board, fake_tegrastats(tmp_path, "while True:\n    say(lines[0])"))
    with pytest.raises(KeyboardInterrupt), record(source, 0.02):
        raise KeyboardInterrupt
    assert not left_running(tmp_path)


@on_posix
def test_a_program_that_does_not_want_to_end(tmp_path, board, monkeypatch):
    monkeypatch.setattr(power_tegrastats, "_END_SECONDS", 0.2)
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    say(lines[0])"
    source = find_tegrastats(board, fake_tegrastats(tmp_path, body))
    with record(source, 0.02) as recording:
        time.sleep(0.1)
    assert recording.mean_watts() == pytest.approx(12.479)
    assert not left_running(tmp_path)


@on_posix
def test_a_program_that_ends_by_itself(tmp_path, board):
    source = find_tegrastats(board, fake_tegrastats(tmp_path, "say(lines[0]); say(lines[0])"))
    with record(source, 0.02) as recording:
        time.sleep(0.5)
    assert recording.power(images=1, seconds=0.5) is None, "half a recording is none"
    assert "ended by itself" in recording.failure
    assert not left_running(tmp_path)


@on_posix
def test_a_program_that_falls_silent(tmp_path, board, monkeypatch):
    monkeypatch.setattr(power_tegrastats, "_SILENCE_SECONDS", 0.3)
    source = find_tegrastats(board, fake_tegrastats(tmp_path, "say(lines[0])\ntime.sleep(60)"))
    with record(source, 0.02) as recording:
        time.sleep(0.8)
    assert recording.power(images=1, seconds=0.8) is None
    assert "has said nothing" in recording.failure
    assert not left_running(tmp_path)


@on_posix
def test_a_program_that_says_nothing_of_power(tmp_path, board):
    with pytest.raises(BackendError, match="says nothing of power"):
        find_tegrastats(board, fake_tegrastats(tmp_path, "while True:\n    say('RAM 1438/30622MB gpu@40C')"))
    assert not left_running(tmp_path)


def test_a_program_that_is_not_there(tmp_path, board):
    with pytest.raises(BackendError, match="cannot be started"):
        find_tegrastats(board, str(tmp_path / "tegrastats"))
