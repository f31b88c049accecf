"""A Jetson's own files: rails, clocks, temperatures, what slows it down, and how it is set."""

import shutil
import sys
import time

import pytest

from overnet.benchmarks.power.jetson import find_board, find_rails, parse_power_mode, total_power
from overnet.benchmarks.power.record import record
from overnet.errors import BackendError
from tests.support.recorded_files import RECORDED, lay_out, put, write_program


@pytest.fixture
def orin(tmp_path):
    return lay_out("sysfs_agx_orin_jetpack6.txt", tmp_path / "orin")


@pytest.fixture
def thor(tmp_path):
    return lay_out("sysfs_thor_jetpack7.txt", tmp_path / "thor")


def source_of(root):
    return find_rails(find_board(root, nvpmodel=str(root / "none")))


def test_another_machine_is_no_jetson(tmp_path):
    assert find_board(tmp_path) is None
    put(tmp_path, "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711")
    assert find_board(tmp_path) is None


def test_power_of_a_board_without_a_rail_for_all(orin):
    with record(source_of(orin), 0.01) as recording:
        time.sleep(0.05)
    power = recording.power(images=4, seconds=2.0)
    # Volts times amperes of three rails. Memory is part of the 5 V rail; NC, and the channels from 4 on, are none.
    watts = 19.736 * 0.240 + 19.728 * 0.160 + 4.968 * 0.953
    assert (power.mean_watts, power.largest_watts) == (pytest.approx(watts), pytest.approx(watts))
    assert power.joules_per_image == pytest.approx(watts / 2)
    assert power.source == "INA3221"
    assert power.covers == "the sum of the module's rails VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0"
    assert power.clocks_mhz == {"gpu": 918.0, "cpu": pytest.approx(1465.6)}
    assert power.temperatures_celsius == {"cpu": 52.968, "gpu": 47.625}
    # The fan is at work, the case is hot, and over-current was counted before: none of it slows the board down now.
    assert power.throttled == []
    assert power.power_mode is None


def test_power_of_a_board_with_a_rail_for_all(thor):
    source = source_of(thor)
    with record(source, 0.01) as recording:
        pass
    power = recording.power(images=1, seconds=1.0)
    assert (source.name, source.covers) == ("INA238", "the module and its carrier board (VIN)")
    assert power.mean_watts == pytest.approx(22.0)
    assert power.clocks_mhz == {"gpu": 1574.0, "cpu": 2601.0}
    assert power.throttled is None, "nothing on this board says it"


@pytest.mark.parametrize(
    ("rails", "watts", "covers"),
    [
        ({"VDD_SOC": 1500.0, "VDD_IN": 5000.0, "VDD_CPU_GPU_CV": 700.0}, 5.0, "the whole module (VDD_IN)"),
        ({"POM_5V_IN": 1750.0, "POM_5V_GPU": 40.0, "POM_5V_CPU": 300.0}, 1.75, "the whole module (POM_5V_IN)"),
        ({"VDD_GPU": 37939.0, "VIN": 124486.0}, 124.486, "the module and its carrier board (VIN)"),
        (
            {"VDD_CPU_CV": 800.0, "VDD_GPU_SOC": 4800.0, "VIN_SYS_5V0": 3800.0, "VDDQ_VDD2_1V8AO": 700.0},
            9.4,
            "the sum of the module's rails VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0",
        ),
        ({"VDD_GPU": -392.0, "VIN_SYS_5V0": 8988.0}, 8.596, "the sum of the module's rails VDD_GPU, VIN_SYS_5V0"),
    ],
)
def test_the_power_of_a_board_by_its_rails(rails, watts, covers):
    assert total_power(rails) == (pytest.approx(watts), covers)


def test_a_board_without_rails_has_no_power():
    assert total_power({}) is None


def test_heat_and_current_that_slow_it_down(orin):
    with record(source_of(orin), 0.01) as recording:
        put(orin, "sys/class/thermal/cooling_device2/cur_state", 1)
        put(orin, "sys/class/thermal/cooling_device4/cur_state", 2)
        put(orin, "sys/class/hwmon/hwmon2/oc3_event_cnt", 39)
        put(orin, "sys/class/hwmon/hwmon2/oc1_event_cnt", 1)
        time.sleep(0.1)
        put(orin, "sys/class/thermal/cooling_device2/cur_state", 0)
        time.sleep(0.1)
    throttled = recording.power(images=1, seconds=1.0).throttled
    assert any(words.startswith("heat (gpu-throttle-alert), in ") for words in throttled)
    assert any(words.startswith("heat (GPU clock reduced), in ") for words in throttled)
    assert "momentary current too high, counted 2 times" in throttled
    assert "voltage too low, counted 1 time" in throttled
    assert len(throttled) == 4


def test_a_sum_is_not_taken_where_a_rail_cannot_be_read(orin):
    source = source_of(orin)
    with record(source, 0.01) as recording:
        (orin / "sys/class/hwmon/hwmon3/curr1_input").unlink()
        time.sleep(0.05)
    watts = 19.736 * 0.240 + 19.728 * 0.160 + 4.968 * 0.953
    assert recording.power(images=1, seconds=1.0).mean_watts == pytest.approx(watts), "and not less, without a rail"
    with pytest.raises(BackendError, match="cannot be read"):
        source_of(orin)
    with record(source, 0.01) as recording:
        pass
    assert recording.power(images=1, seconds=1.0) is None
    assert "no figures" in recording.failure


def test_a_board_without_monitors(orin):
    shutil.rmtree(orin / "sys/class/hwmon")
    with pytest.raises(BackendError, match="no power monitor"):
        source_of(orin)


@pytest.mark.parametrize(
    ("file", "mode"), [("nvpmodel_jetpack6.txt", "MAXN_SUPER"), ("nvpmodel_jetpack5_verbose.txt", "MODE_15W_6CORE")]
)
def test_the_power_mode_is_known_by_its_name(file, mode):
    assert parse_power_mode((RECORDED / file).read_text()) == mode


def test_output_without_a_power_mode_gives_none():
    assert parse_power_mode("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13") is None
    assert parse_power_mode("NV Power Mode: \n2") is None


@pytest.mark.skipif(sys.platform == "win32", reason="programs are scripts here")
def test_the_power_mode_is_asked_of_the_board(tmp_path, orin):
    answer = RECORDED / "nvpmodel_jetpack6.txt"
    code = f"import sys\nassert sys.argv[1:] == ['-q']\nprint(open({str(answer)!r}).read())"
    board = find_board(orin, nvpmodel=write_program(tmp_path / "nvpmodel", code))
    assert find_rails(board).power_mode == "MAXN_SUPER"
    assert board.settings() == {"power mode": "MAXN_SUPER", "jetson_clocks": "off"}


def test_clocks_that_are_fixed(thor, orin, tmp_path):
    assert find_board(thor, nvpmodel="").settings() == {"jetson_clocks": "on"}
    put(thor, "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq", 972000)
    assert find_board(thor).clocks_are_fixed() is False
    put(tmp_path, "proc/device-tree/compatible", "nvidia,tegra234")
    assert find_board(tmp_path).clocks_are_fixed() is None
