"""The first CUDA device, asked of the driver itself: no CUDA toolkit, PyCUDA or PyTorch is needed.

Functions and constants are those of CUDA's driver API. Where there is no driver or no device, the answer is None.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

# CUdevice_attribute
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76
_DRIVERS = {"win32": "nvcuda.dll"}
_DRIVER_ELSEWHERE = "libcuda.so.1"


@dataclass(frozen=True)
class CudaDevice:
    """One GPU.

    Attributes
    ----------
    name : such as ``"NVIDIA GeForce RTX 4070"`` or ``"Orin"``.
    compute_capability : such as ``"8.9"``.
    shares_memory : whether its memory is the machine's, as on a Jetson.
    """

    name: str
    compute_capability: str
    shares_memory: bool


def cuda_device() -> CudaDevice | None:
    """The device that CUDA programs use unless told otherwise (``CUDA_VISIBLE_DEVICES`` counts); None without one."""
    driver = _driver()
    if driver is None:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device):
        return None
    values = [_attribute(driver, device, attribute) for attribute in (_MAJOR, _MINOR, _INTEGRATED)]
    major, minor, integrated = values
    if major is None or minor is None:
        return None
    return CudaDevice(name.value.decode("ascii", "replace").strip(), f"{major}.{minor}", bool(integrated))


def free_device_memory_bytes() -> int | None:
    """Memory of that device that nothing uses; None without one.

    For the answer the device's primary context is made, which other libraries use too, and let go again.
    """
    driver = _driver()
    if driver is None:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
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


def _driver() -> ctypes.CDLL | None:
    """The driver, initialised, with at least one device."""
    try:
        driver = ctypes.CDLL(_DRIVERS.get(sys.platform, _DRIVER_ELSEWHERE))
    except OSError:
        return None
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    return driver


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, attribute: int) -> int | None:
    value = ctypes.c_int()
    return None if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) else value.value
