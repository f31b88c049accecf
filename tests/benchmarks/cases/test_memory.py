import os
import subprocess
import sys
import types

import pytest

from overnet.benchmarks.cases.memory import DeviceMemory, growth, memory_of, peak_host_bytes, resident_host_bytes
from overnet.benchmarks.results import Case, CaseResult, Memory
from overnet.system.cuda_device import cuda_device_count


def case(width=100, height=50, batch=1, method="openvino", kind="backend"):
    return Case(method, kind, "fp32", 2, width, height, batch)


def result(width, height, peak_bytes, *, method="openvino", kind="backend", device_bytes=None, batch=1, error=None):
    memory = Memory(peak_bytes, 1_000, 1.0, device_bytes)
    return CaseResult(case(width, height, batch, method, kind), "a device", memory=memory, error=error)


def test_a_known_amount_of_memory_is_found():
    code = """
import numpy as np
from overnet.benchmarks.cases.memory import peak_host_bytes, resident_host_bytes
before = resident_host_bytes()
held = np.ones(200 << 20, np.uint8)
print(peak_host_bytes() - before, resident_host_bytes() - before)
del held
print(peak_host_bytes() - before, resident_host_bytes() - before)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    (peak, resident), (peak_after, resident_after) = [map(int, line.split()) for line in said.splitlines()]
    assert peak == pytest.approx(200 << 20, rel=0.05)
    assert resident == pytest.approx(200 << 20, rel=0.05)
    # What was let go of still counts as the peak, and as nothing else.
    assert peak_after == pytest.approx(200 << 20, rel=0.05)
    assert resident_after < 20 << 20


def test_a_small_process_does_not_inherit_the_peak_of_a_large_one():
    code = "from overnet.benchmarks.cases.memory import peak_host_bytes; print(peak_host_bytes())"
    held = bytearray(b"1") * (400 << 20)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert len(held) == 400 << 20
    assert peak_host_bytes() > 400 << 20
    assert int(said) < 300 << 20


def test_the_peak_is_at_least_what_is_there():
    assert peak_host_bytes() >= 0.95 * resident_host_bytes() > 1 << 20


def test_memory_a_pixel_is_that_of_all_images():
    memory = memory_of(case(batch=4), before_host_bytes=1_000, peak_bytes=41_000, device_bytes=None, activation_bytes=7)
    assert memory.bytes_per_input_pixel == 40_000 / (4 * 100 * 50)
    assert (memory.peak_host_bytes, memory.before_host_bytes, memory.activation_bytes) == (41_000, 1_000, 7)


@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
def test_without_a_gpu_there_is_no_figure_of_its_memory():
    assert DeviceMemory(0).taken_bytes() is None


def test_only_this_process_s_gpu_memory_is_counted(monkeypatch):
    used = {os.getpid(): 100, os.getpid() + 1: 7_000}
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda number: number
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        types.SimpleNamespace(pid=pid, usedGpuMemory=taken) for pid, taken in used.items()
    ]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    watch = DeviceMemory(0)
    used[os.getpid()] += 5_000
    used[os.getpid() + 1] += 90_000
    assert watch.taken_bytes() == 5_000


def test_memory_growth_is_linear_and_gives_the_largest_image():
    results = [result(width, 100, 1_000_000 + 500 * width * 100) for width in (10, 20, 40)]
    (line,) = growth(results, 11_000_000)
    assert (line.method, line.precision, line.scale) == ("openvino", "fp32", 2)
    assert line.fixed_bytes == pytest.approx(1_000_000)
    assert line.bytes_per_pixel == pytest.approx(500)
    assert line.largest_misfit_percent == pytest.approx(0, abs=1e-6)
    assert line.largest_pixels == pytest.approx(20_000, abs=1)


def test_only_what_was_measured_at_several_sizes_has_a_growth():
    one_size = result(10, 100, 5_000, method="torch")
    failed = result(20, 100, 9_000, method="torch", error="it failed")
    baselines = [result(width, 100, 1_000 * width, method="bicubic", kind="baseline") for width in (10, 20)]
    shrinking = [result(width, 100, 9_000 - width, method="onnxruntime") for width in (10, 20)]
    assert growth([one_size, failed, *baselines, *shrinking], 1 << 30) == []


def test_the_images_of_a_batch_count_together():
    (line,) = growth([result(10, 10, 2_000), result(10, 10, 5_000, batch=4)], 10_000)
    assert line.bytes_per_pixel == pytest.approx(10)


def test_growth_on_a_gpu_with_own_memory_is_fitted_to_its_memory():
    results = [result(width, 100, 9_000_000, method="tensorrt", device_bytes=1_000 * width * 100) for width in (10, 20)]
    assert growth(results, 1 << 40) == []
    (line,) = growth(results, 1 << 40, available_device_bytes=5_000_000)
    assert line.bytes_per_pixel == pytest.approx(1_000)
    assert (line.available_bytes, line.largest_pixels) == (5_000_000, pytest.approx(5_000, abs=1))
