"""The properties of this machine that a TensorRT engine, or the speed of INT8, depends on."""

import platform
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from overnet.errors import MissingDependency, one_line, require
from overnet.files.engine_sidecar import TITLES, Environment, RuntimeName
from overnet.system.cuda_device import cuda_device

# The files with the versions of NVIDIA's kernel module, of L4T, and of Debian's packages.
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_L4T_FILE = Path("/etc/nv_tegra_release")
_PACKAGES_FILE = Path("/var/lib/dpkg/status")

# How to get TensorRT into a virtual environment on a Jetson.
TENSORRT_ON_JETSON = (
    "sudo apt install python3-libnvinfer-dev, and a virtual environment made with --system-site-packages"
)

_MODULES: dict[RuntimeName, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "gpu"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
}


def bindings(runtime: RuntimeName, *, purpose: str) -> ModuleType:
    """Import a library's Python bindings.

    Args:
        runtime: the library.
        purpose: what needs it, as the beginning of a sentence.

    Raises:
        MissingDependency: the bindings are not installed, or a library that they need is missing.
    """
    module, extra = _MODULES[runtime]
    try:
        return require(module, extra=extra, purpose=purpose)
    except MissingDependency as error:
        if runtime == "tensorrt" and is_jetson():
            raise MissingDependency(
                f"{purpose} needs {module}, which on a Jetson comes with JetPack: {TENSORRT_ON_JETSON}"
            ) from error
        raise
    except OSError as error:
        # The bindings load the library itself while they are imported.
        raise MissingDependency(
            f"{purpose} needs {module}, which is installed but does not load ({one_line(error)})"
        ) from error


def is_jetson() -> bool:
    """Return whether this machine is a Jetson."""
    return _L4T_FILE.exists()


def current_environment(runtime: RuntimeName, device: int = 0) -> Environment:
    """Return the properties that an engine built here depends on; unknown ones, such as a missing GPU, are None.

    Args:
        device: the GPU, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        MissingDependency: the library is not installed.
    """
    version = str(bindings(runtime, purpose=f"using {TITLES[runtime]}").__version__)
    gpu = cuda_device(device)
    return Environment(
        runtime=runtime,
        runtime_version=version,
        device_name=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        driver=parse_driver_version(read_text(_DRIVER_FILE)),
        jetpack=parse_jetpack(read_text(_L4T_FILE), lambda: read_text(_PACKAGES_FILE)),
        operating_system=platform.system(),
        architecture=platform.machine(),
        multiprocessors=gpu.multiprocessors if gpu else None,
        memory_bytes=gpu.memory_bytes if gpu else None,
    )


def parse_driver_version(text: str) -> str | None:
    """Return the driver's version in the text of ``/proc/driver/nvidia/version``, such as ``"560.35.03"``."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return found[1] if found else None


def parse_l4t_version(text: str) -> str | None:
    """Return the version of L4T in the text of ``/etc/nv_tegra_release``, such as ``"36.4.3"``."""
    found = re.search(r"^# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    return f"{found[1]}.{found[2]}" if found else None


def parse_jetpack_version(packages: str) -> str | None:
    """Return the version of the installed package ``nvidia-jetpack`` in dpkg's status file, such as ``"6.2"``."""
    for entry in packages.split("\n\n"):
        if not entry.lstrip("\n").startswith("Package: nvidia-jetpack\n") or " installed\n" not in entry:
            continue
        found = re.search(r"^Version: (\d+(?:\.\d+)*)", entry, re.MULTILINE)
        return found[1] if found else None
    return None


def parse_jetpack(release: str, read_packages: Callable[[], str]) -> str | None:
    """Return the versions of JetPack and L4T, such as ``"6.2 (L4T 36.4.3)"``; None where this is not a Jetson.

    Args:
        release: the text of ``/etc/nv_tegra_release``.
        read_packages: returns the text of dpkg's status file, which is long and therefore read on a Jetson only.
    """
    l4t = parse_l4t_version(release)
    if l4t is None:
        return None
    # The package with JetPack's version is installed only where all of JetPack is.
    jetpack = parse_jetpack_version(read_packages())
    return f"{jetpack} (L4T {l4t})" if jetpack else f"L4T {l4t}"


def read_text(path: Path) -> str:
    """Return a file's text without white space and NUL characters at its ends; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def has_fast_int8(cpu_information: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies INT8 with its own instructions, several times as fast as FP32.

    x86 has them as VNNI or AMX, Arm as dot products or I8MM. Where the system does not say, they are assumed.
    """
    words = set(read_text(cpu_information).split())
    return not words or bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & words)
