"""CUDA devices, read from the driver's library: no CUDA toolkit, PyCUDA or PyTorch is needed.

Functions and constants are those of CUDA's driver API. Devices are counted from 0 among those that
``CUDA_VISIBLE_DEVICES`` leaves. Where there is no driver or no such device, the result is None.
"""

import ctypes
import os
import sys
from dataclasses import dataclass

from overnet.errors import BackendError, InputError

# CUdevice_attribute
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_DRIVERS = {"win32": "nvcuda.dll"}
_DRIVER_ELSEWHERE = "libcuda.so.1"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class CudaDevice:
    """The properties of one GPU.

    Attributes:
        name: such as ``"NVIDIA GeForce RTX 4070"`` or ``"Orin"``.
        compute_capability: such as ``"8.9"``.
        shares_memory: whether it shares the host's memory, as on a Jetson.
        multiprocessors: the number of its streaming multiprocessors (SMs); None where the driver does not say.
        memory_bytes: all of its memory; None where the driver does not say.
    """

    name: str
    compute_capability: str
    shares_memory: bool
    multiprocessors: int | None = None
    memory_bytes: int | None = None


def cuda_device_count() -> int:
    """Return the number of devices; 0 without a driver."""
    driver = _driver()
    return 0 if driver is None else _count(driver)


def cuda_device(ordinal: int = 0) -> CudaDevice | None:
    """Return a device by its number; 0 is the default of CUDA programs. None where there is no such device."""
    driver, device = _device(ordinal)
    if driver is None:
        return None
    name = ctypes.create_string_buffer(256)
    major, minor, integrated = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if (
        driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    ):
        return None
    driver.cuDeviceGetAttribute(ctypes.byref(integrated), _INTEGRATED, device)
    multiprocessors, memory = ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGetAttribute(ctypes.byref(multiprocessors), _MULTIPROCESSORS, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return CudaDevice(
        name.value.decode("ascii", "replace").strip(),
        f"{major.value}.{minor.value}",
        bool(integrated.value),
        multiprocessors.value or None,
        memory.value or None,
    )


def check_device(ordinal: int) -> CudaDevice:
    """Return the device with this number.

    Raises:
        InputError: there are other devices; the message names them.
        BackendError: there is no device.
    """
    device = cuda_device(ordinal)
    if device is not None:
        return device
    visible = os.environ.get(_VISIBLE)
    setting = "" if visible is None else f" ({_VISIBLE}={visible})"
    count = cuda_device_count()
    if not count:
        raise BackendError(f"there is no NVIDIA GPU here, or no driver for it{setting}")
    known = (cuda_device(number) for number in range(count))
    names = ", ".join("a device without a name" if other is None else other.name for other in known)
    raise InputError(f"device is {ordinal}; there {'is' if count == 1 else 'are'} {count}: {names}{setting}")


def free_device_memory_bytes(ordinal: int = 0) -> int | None:
    """Return the free memory of a device; None where there is no such device.

    This retains the device's primary context, which other libraries use too, and releases it again.
    """
    driver, device = _device(ordinal)
    context = ctypes.c_void_p()
    if driver is None or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return None if failed else free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def pci_bus_id(ordinal: int) -> str | None:
    """Return the PCI address of a device, such as ``"0000:01:00.0"``; None where there is no such device."""
    driver, device = _device(ordinal)
    text = ctypes.create_string_buffer(32)
    if driver is None or driver.cuDeviceGetPCIBusId(text, len(text), device):
        return None
    return text.value.decode("ascii", "replace")


def cuda_of_driver() -> str | None:
    """Return the newest CUDA version that the driver supports, such as ``"13.0"``; None without a driver."""
    driver, version = _library(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _library() -> ctypes.CDLL | None:
    """Return the driver's library; None where it is not installed."""
    try:
        return ctypes.CDLL(_DRIVERS.get(sys.platform, _DRIVER_ELSEWHERE))
    except OSError:
        return None


def _driver() -> ctypes.CDLL | None:
    """Return the initialised driver; None where it finds no device."""
    driver = _library()
    return None if driver is None or driver.cuInit(0) or _count(driver) < 1 else driver


def _count(driver: ctypes.CDLL) -> int:
    count = ctypes.c_int()
    return 0 if driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def _device(ordinal: int) -> tuple[ctypes.CDLL | None, ctypes.c_int]:
    """Return the driver and a device; no driver where there is no such device."""
    driver, device = _driver(), ctypes.c_int()
    return (None if driver is None or driver.cuDeviceGet(ctypes.byref(device), ordinal) else driver), device
