"""The hardware, settings and library versions that affect the speed. Works without torch and on every platform.

Names of users, hosts and folders are left out, because reports are published.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from overnet._version import __version__
from overnet.benchmarks.power.jetson import find_board
from overnet.benchmarks.power.nvml import opened
from overnet.benchmarks.results import Machine
from overnet.errors import OverNetError, require
from overnet.system.cuda_device import cuda_device, cuda_device_count, cuda_of_driver
from overnet.system.environment import parse_driver_version, parse_jetpack, read_text
from overnet.system.memory import Limits, read_limits, usable_cores

# The distributions of each library; the first that is installed counts.
_LIBRARIES = {
    "NumPy": ("numpy",),
    "OpenCV": ("opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless"),
    "PyAV": ("av",),
    "OpenVINO": ("openvino",),
    "ONNX Runtime": ("onnxruntime", "onnxruntime-gpu"),
    "ONNX": ("onnx",),
    "PyTorch": ("torch",),
    "TensorRT": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "TensorRT-RTX": ("tensorrt-rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"),
    "PyCUDA": ("pycuda",),
    "cuda-bindings": ("cuda-bindings",),
    "ncnn": ("ncnn",),
}
# Variables that set the number of threads or the GPUs. Only integers and lists of them are recorded.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "CUDA_VISIBLE_DEVICES",
)
# Vector instructions, by the kernel's names.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "asimd": "Neon",
    "asimdhp": "Neon FP16",
    "asimddp": "Neon dot product",
    "bf16": "Neon BF16",
    "sve": "SVE",
}
_ASKED_SECONDS = 5


def describe_machine(root: Path = Path("/")) -> Machine:
    """Describe this machine; what cannot be determined is left out.

    Args:
        root: of the file system, with Linux's ``/proc``, ``/sys`` and ``/etc``.
    """
    limits = read_limits(root)
    processor = _processor(root)
    system = [platform.system(), platform.release(), platform.machine()]
    with suppress(OSError, AttributeError):
        system.append(f"({platform.freedesktop_os_release()['PRETTY_NAME']})")
    memory_bytes = int(psutil.virtual_memory().total)
    return Machine(
        name=read_text(root / "proc/device-tree/model") or processor,  # a board's name
        system=" ".join(name for name in system if name),
        processor=processor,
        cores=usable_cores(limits),
        memory_bytes=min(memory_bytes, limits.memory_bytes or memory_bytes),
        gpus=_gpus(root),
        versions=_versions(),
        settings=_settings(root, limits),
    )


def _processor(root: Path) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    if found:
        return " ".join(found[1].split())
    if sys.platform == "linux":
        # On Arm the kernel reports only numbers, which lscpu translates.
        listed = re.search(r"^Model name:\s*(.+)$", _output("lscpu"), re.MULTILINE)
        if listed and listed[1].strip() != "-":
            return listed[1].strip()
    elif sys.platform == "darwin":
        brand = _output("sysctl", "-n", "machdep.cpu.brand_string").strip()
        if brand:
            return brand
    return platform.processor() or platform.machine() or "unknown"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASKED_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _gpus(root: Path) -> list[str]:
    # On a Jetson, NVML is missing or incomplete.
    with suppress(OverNetError):
        nvml = require("pynvml", extra="bench", purpose="naming GPUs")
        with opened(nvml), suppress(nvml.NVMLError):
            driver, lines = _words(nvml.nvmlSystemGetDriverVersion()), []
            for number in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                name, total = _words(nvml.nvmlDeviceGetName(handle)), nvml.nvmlDeviceGetMemoryInfo(handle).total
                lines.append(f"{name}, {total / 1e9:.1f} GB, driver {driver}")
            if lines:
                return lines
    version = parse_driver_version(read_text(root / "proc/driver/nvidia/version"))
    devices = [cuda_device(number) for number in range(cuda_device_count())]
    return [
        ", ".join(
            [
                device.name,
                f"compute capability {device.compute_capability}",
                *(["memory shared with the CPU"] if device.shares_memory else []),
                *([f"driver {version}"] if version else []),
            ]
        )
        for device in devices
        if device is not None
    ]


def _words(text: str | bytes) -> str:
    """Decode text; older packages return bytes."""
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version(), "overnet": __version__}
    for title, distributions in _LIBRARIES.items():
        for distribution in distributions:
            with suppress(importlib.metadata.PackageNotFoundError):
                versions.setdefault(title, importlib.metadata.version(distribution))
    if "OpenCV" not in versions:  # a custom build, such as a Jetson's
        with suppress(ImportError):
            import cv2

            versions["OpenCV"] = str(cv2.__version__)
    versions["NumPy's BLAS"] = blas_of_numpy()
    cuda = cuda_of_driver()
    return versions if cuda is None else {**versions, "CUDA of the driver": cuda}


def blas_of_numpy() -> str:
    """Return the library with which NumPy multiplies matrices, such as ``"OpenBLAS 0.3.31"``."""
    found = np.show_config(mode="dicts")
    blas = found.get("Build Dependencies", {}).get("blas", {})
    name, version = str(blas.get("name", "unknown")), str(blas.get("version", ""))
    title = "OpenBLAS" if "openblas" in name.lower() else name
    return f"{title} {version}".strip()


def _settings(root: Path, limits: Limits) -> dict[str, str]:
    cpus = root / "sys/devices/system/cpu"
    # The processor's features by the kernel's names, on x86 and Arm.
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    flags = found[1].split() if found else []
    clocks = {read_text(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_max_freq")}
    highest = [int(clock) // 1000 for clock in clocks if clock.isdecimal()]
    switches = {"0": read_text(cpus / "intel_pstate/no_turbo"), "1": read_text(cpus / "cpufreq/boost")}
    turbo = ["on" if switch == on else "off" for on, switch in switches.items() if switch]
    board = find_board(root)
    given = {name: os.environ.get(name, "") for name in _VARIABLES}
    settings = {
        "processors of the machine": str(os.cpu_count() or "unknown"),
        "governor": ", ".join(
            sorted({read_text(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""})
        ),
        "highest clock allowed": f"{max(highest)} MHz" if highest else "",
        "turbo": "".join(turbo[-1:]),
        "vector instructions": ", ".join(title for flag, title in _INSTRUCTIONS.items() if flag in flags),
        "virtual machine": "yes" if "hypervisor" in flags else "",
        "processor time, at most": "" if limits.cores is None else f"{limits.cores:g} cores (control group)",
        "memory, at most": "" if limits.memory_bytes is None else f"{limits.memory_bytes / 1e9:.1f} GB (control group)",
        "JetPack": parse_jetpack(
            read_text(root / "etc/nv_tegra_release"), lambda: read_text(root / "var/lib/dpkg/status")
        )
        or "",
        **({} if board is None else board.settings()),
        **{name: value for name, value in given.items() if re.fullmatch(r"\d+(,\d+)*", value)},
    }
    return {name: value for name, value in settings.items() if value}
