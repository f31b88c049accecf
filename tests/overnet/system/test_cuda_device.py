import ctypes
import shutil
import subprocess

import pytest

from overnet.errors import BackendError, InputError
from overnet.system import cuda_device
from overnet.system.cuda_device import CudaDevice, check_device, cuda_device_count, free_device_memory_bytes

# The dozen functions of CUDA's driver that are called, with arguments as in cuda.h, so that calling them is real.
DRIVER = """
#include <stddef.h>
#include <stdio.h>
#include <string.h>
int device_count = 1, integrated = 0, failing = 0, retained = 0, pushed = 0, initialised = 0;
int cuInit(unsigned flags) { initialised = 1; return flags ? 1 : device_count ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = device_count; return initialised ? 0 : 3; }
/* Handles are not ordinals: device 0 is 7, device 1 is 8. */
static int unknown(int device) { return device < 7 || device >= 7 + device_count ? 101 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return unknown(*device); }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 7 ? "Orin" : "RTX", length); return unknown(device);
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 16 ? 8 : attribute == 75 ? 8 : attribute == 76 ? device : attribute == 18 ? integrated : -1;
    return unknown(device);
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8000000000u; return unknown(device); }
static int of = 0;
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &retained; retained++; of = device; return unknown(device);
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return unknown(device); }
int cuCtxPushCurrent_v2(void *context) { if (context != &retained) return 201; pushed++; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = &retained; pushed--; return 0; }
int cuDeviceGetPCIBusId(char *text, int size, int device) {
    snprintf(text, size, "0000:%02x:00.0", device); return unknown(device);
}
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = of == 7 ? 5000000000u : 6000000000u; *total = 8000000000u; return pushed == 1 ? failing : 201;
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
    assert cuda_device.cuda_device() == CudaDevice("Orin", "8.7", False, 8, 8_000_000_000)
    driver["integrated"].value = 1
    assert cuda_device.cuda_device().shares_memory


def test_free_memory_and_nothing_left_behind(driver):
    assert free_device_memory_bytes() == 5_000_000_000
    assert (driver["retained"].value, driver["pushed"].value) == (0, 0)


def test_the_newest_cuda_that_the_driver_runs(driver, monkeypatch):
    assert cuda_device.cuda_of_driver() == "12.6"
    monkeypatch.setattr(cuda_device, "_DRIVER_ELSEWHERE", "no-such-library.so")
    assert cuda_device.cuda_of_driver() is None


def test_several_devices(driver):
    """A device is known by its own handle, name, capability and memory; the next number is none."""
    driver["device_count"].value = 2
    assert cuda_device_count() == 2
    assert cuda_device.cuda_device(1) == check_device(1) == CudaDevice("RTX", "8.8", False, 8, 8_000_000_000)
    assert (free_device_memory_bytes(1), free_device_memory_bytes(0)) == (6_000_000_000, 5_000_000_000)
    assert (driver["retained"].value, driver["pushed"].value) == (0, 0)
    assert cuda_device.cuda_device(2) is None
    assert free_device_memory_bytes(2) is None
    # The driver is asked by handle here, too.
    assert [cuda_device.pci_bus_id(number) for number in range(3)] == ["0000:07:00.0", "0000:08:00.0", None]


@pytest.mark.parametrize(("count", "listed"), [(1, "there is 1: Orin"), (2, "there are 2: Orin, RTX")])
@pytest.mark.parametrize(("visible", "said"), [("1,0", " (CUDA_VISIBLE_DEVICES=1,0)"), (None, "")])
def test_a_device_that_is_not_there(driver, monkeypatch, count, listed, visible, said):
    """The error names those that are, and the setting that may have hidden the one that was meant."""
    driver["device_count"].value = count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError) as caught:
        check_device(3)
    assert str(caught.value) == f"device is 3; {listed}{said}"


def test_a_failure_leaves_nothing_behind(driver):
    driver["failing"].value = 999
    assert free_device_memory_bytes() is None
    assert (driver["retained"].value, driver["pushed"].value) == (0, 0)


def test_a_driver_without_devices(driver):
    driver["device_count"].value = 0
    assert cuda_device.cuda_device() is None
    assert free_device_memory_bytes() is None
    assert cuda_device_count() == 0


def test_no_driver(monkeypatch):
    monkeypatch.setattr(cuda_device, "_DRIVER_ELSEWHERE", "libcuda-that-is-not-there.so.1")
    assert cuda_device.cuda_device() is None
    assert free_device_memory_bytes() is None
    assert cuda_device_count() == 0


@pytest.mark.parametrize(("visible", "said"), [("", r" \(CUDA_VISIBLE_DEVICES=\)$"), (None, r"it$")])
def test_no_device_at_all(monkeypatch, visible, said):
    monkeypatch.setattr(cuda_device, "_DRIVER_ELSEWHERE", "libcuda-that-is-not-there.so.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(BackendError, match=r"no NVIDIA GPU here.*" + said):
        check_device(0)
