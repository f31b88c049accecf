import time

import numpy as np
import pytest

from overnet.benchmarks.peak import copied_bytes, last_cache_bytes, measure_peaks, share_of_peak
from overnet.benchmarks.results import Peak
from overnet.errors import InputError
from overnet.system.cuda_device import cuda_device_count


@pytest.mark.timing
def test_the_processor_s_peak_is_at_least_about_what_a_plain_product_reaches(monkeypatch):
    # Of a server's last cache four times as much would be copied, which takes seconds.
    monkeypatch.setattr("overnet.benchmarks.peak.last_cache_bytes", lambda: 16 << 20)
    matrix = np.ones((512, 512), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    peaks = measure_peaks(0 if not cuda_device_count() else None, seconds=0.05)
    (peak,) = peaks
    assert peak.device == "CPU"
    assert peak.measured_by.startswith(("NumPy (", "PyTorch "))
    # Others may be at work now that were not before.
    assert peak.gflops_fp32 > 0.2 * 2 * 512**3 / min(times) / 1e9
    assert 0.1 < peak.copy_gigabytes_per_second < 10_000


def test_half_of_the_peak_is_a_half():
    peak = Peak("CPU", gflops_fp32=100.0, copy_gigabytes_per_second=10.0, measured_by="")
    assert share_of_peak(5e9, 0.2, peak) == pytest.approx(0.5)


def test_no_time_at_all_is_refused():
    with pytest.raises(InputError, match="seconds is 0"):
        measure_peaks(None, 0)


def test_what_is_copied_is_larger_than_the_caches_and_smaller_than_the_memory():
    plenty = 1 << 36
    assert copied_bytes(32 << 20, plenty) == 128 << 20
    assert copied_bytes(None, plenty) == 64 << 20
    assert copied_bytes(1 << 40, plenty) == 1 << 30
    assert copied_bytes(32 << 20, 1 << 28) == 1 << 25


def test_the_last_cache_is_the_largest(tmp_path):
    assert last_cache_bytes(tmp_path) is None
    for index, size in enumerate(("48K", "32K", "2048K", "30M")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 30 << 20
