import ctypes
import shutil
import subprocess

import pytest

from overnet import cuda_device
from overnet.cuda_device import CudaDevice, free_device_memory_bytes

# The dozen functions of CUDA's driver that are called, with arguments as in cuda.h, so that calling them is real.
DRIVER = """
#include <stddef.h>
#include <string.h>
int device_count = 1, integrated = 0, failing = 0, retained = 0, pushed = 0, initialised = 0;
int cuInit(unsigned flags) { initialised = 1; return flags ? 1 : device_count ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = device_count; return initialised ? 0 : 3; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "Orin", length); return device != 7;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : -1;
    return device != 7;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &retained; retained++; return device != 7; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return device != 7; }
int cuCtxPushCurrent_v2(void *context) { if (context != &retained) return 201; pushed++; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = &retained; pushed--; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = 5000000000u; *total = 8000000000u; return pushed == 1 ? failing : 201;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "driver.so", folder / "driver.c"], check=True)
    return folder / "driver.so"


@pytest.fixture
def driver(library, monkeypatch):
    """The driver's variables, to be changed; each test finds them as they were."""
    monkeypatch.setattr(cuda_device, "_DRIVER_ELSEWHERE", str(library))
    loaded = ctypes.CDLL(str(library))
    names = ("device_count", "integrated", "failing", "retained", "pushed", "initialised")
    variables = {name: ctypes.c_int.in_dll(loaded, name) for name in names}
    before = {name: variable.value for name, variable in variables.items()}
    yield variables
    for name, variable in variables.items():
        variable.value = before[name]


def test_a_device(driver):
    assert cuda_device.cuda_device() == CudaDevice("Orin", "8.7", shares_memory=False)
    driver["integrated"].value = 1
    assert cuda_device.cuda_device().shares_memory


def test_free_memory_and_nothing_left_behind(driver):
    assert free_device_memory_bytes() == 5_000_000_000
    assert (driver["retained"].value, driver["pushed"].value) == (0, 0)


def test_a_failure_leaves_nothing_behind(driver):
    driver["failing"].value = 999
    assert free_device_memory_bytes() is None
    assert (driver["retained"].value, driver["pushed"].value) == (0, 0)


def test_a_driver_without_devices(driver):
    driver["device_count"].value = 0
    assert cuda_device.cuda_device() is None
    assert free_device_memory_bytes() is None


def test_no_driver(monkeypatch):
    monkeypatch.setattr(cuda_device, "_DRIVER_ELSEWHERE", "libcuda-that-is-not-there.so.1")
    assert cuda_device.cuda_device() is None
    assert free_device_memory_bytes() is None
