import getpass
import json
import platform
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest

from overnet.benchmarks.machine import blas_of_numpy, describe_machine
from overnet.benchmarks.results import Machine
from overnet.files.checked_json import from_json
from overnet.system.memory import read_limits, usable_cores


def _files(root, contents):
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_is_described_without_names_that_are_nobody_s_business():
    machine = describe_machine()
    assert machine.name
    assert machine.processor
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.versions["Python"] == platform.python_version()
    assert {"overnet", "NumPy", "OpenCV", "OpenVINO", "NumPy's BLAS"} <= set(machine.versions)
    text = json.dumps(asdict(machine))
    assert from_json(Machine, json.loads(text), name="machine") == machine
    for private in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert len(private) < 3 or private not in text
    # Words that others use, too, such as root, may be there.
    assert f"/{getpass.getuser()}" not in text


def test_a_jetson_is_told_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0a1b/home/somebody")
    root = _files(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
            "var/lib/dpkg/status": "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1984000\n",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0",
            "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
        },
    )
    machine = describe_machine(root)
    assert machine.settings["jetson_clocks"] == "on"
    assert machine.name == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert machine.processor
    assert machine.settings["JetPack"] == "6.2 (L4T 36.4.3)"
    assert machine.settings["governor"] == "performance, schedutil"
    assert machine.settings["highest clock allowed"] == "1984 MHz"
    assert machine.settings["vector instructions"] == "Neon, Neon FP16, Neon dot product"
    assert machine.settings["OMP_NUM_THREADS"] == "4"
    assert "CUDA_VISIBLE_DEVICES" not in machine.settings
    assert "virtual machine" not in machine.settings


def test_an_x86_processor_is_told_by_its_files(tmp_path):
    cpu = "sys/devices/system/cpu"
    root = _files(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Some   Processor @ 3 GHz\nflags\t\t: avx2 hypervisor avx512f\n",
            f"{cpu}/intel_pstate/no_turbo": "1\n",
        },
    )
    machine = describe_machine(root)
    assert machine.name == machine.processor == "Some Processor @ 3 GHz"
    assert machine.settings["virtual machine"] == "yes"
    assert machine.settings["turbo"] == "off"
    assert machine.settings["vector instructions"] == "AVX2, AVX-512"


def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path):
    machine = describe_machine(tmp_path)
    assert machine.name
    assert machine.cores >= 1
    assert "governor" not in machine.settings


def test_the_tightest_limit_of_nested_groups_counts(tmp_path):
    root = _files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/memory.max": "2000000000\n",
        },
    )
    limits = read_limits(root)
    assert (limits.cores, limits.memory_bytes) == (1.5, 2_000_000_000)
    assert usable_cores(limits) <= 2
    machine = describe_machine(root)
    assert machine.memory_bytes == 2_000_000_000
    assert machine.settings["processor time, at most"] == "1.5 cores (control group)"


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("-1", None)])
def test_control_groups_of_version_1_are_read(tmp_path, quota, cores):
    root = _files(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n0::/\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert read_limits(root).cores == cores
    assert read_limits(root).memory_bytes is None
    assert usable_cores(read_limits(root)) >= 1


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert read_limits(tmp_path).cores is None
    assert read_limits(tmp_path).memory_bytes is None


def test_graphics_cards_are_named_by_nvml(monkeypatch):
    class NVMLError(Exception):
        pass

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = NVMLError
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: b"580.95.05"  # as packages before 11.5 give it
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda number: number
    nvml.nvmlDeviceGetName = lambda handle: "NVIDIA Some Card"
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=24_000_000_000)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert describe_machine().gpus == ["NVIDIA Some Card, 24.0 GB, driver 580.95.05"]

    def fail():
        raise NVMLError("not found")

    # As on a Jetson: what CUDA says is taken instead, which may be nothing.
    nvml.nvmlDeviceGetCount = fail
    assert "NVIDIA Some Card, 24.0 GB, driver 580.95.05" not in describe_machine().gpus


def test_numpy_s_library_for_products_has_a_name():
    assert blas_of_numpy() not in ("", "unknown")
