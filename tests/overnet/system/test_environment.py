import platform
import sys

import pytest

from overnet.errors import MissingDependency
from overnet.system import environment
from overnet.system.cuda_device import CudaDevice
from overnet.system.environment import (
    bindings,
    current_environment,
    has_fast_int8,
    parse_driver_version,
    parse_jetpack_version,
    parse_l4t_version,
)

DESKTOP_DRIVER = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN_DRIVER = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (dvs-builder@U16-I3)  Fri Aug 16
GCC version:  gcc version 13.2.0
"""
JETSON_DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
)
TEGRA_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
TEGRA_7 = "# R39 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 2026\n"
PACKAGES = """\
Package: nvidia-jetpack-dev
Status: install ok installed
Version: 9.9+b1

Package: nvidia-jetpack
Status: install ok installed
Priority: standard
Architecture: arm64
Version: 6.2+b77
Depends: nvidia-jetpack-runtime (= 6.2+b77), nvidia-jetpack-dev (= 6.2+b77)

Package: zlib1g
Status: install ok installed
Version: 1:1.2.11
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DESKTOP_DRIVER, "535.54.03"),
        (OPEN_DRIVER, "560.35.03"),
        (JETSON_DRIVER, "540.4.0"),
        ("GCC version: 11.4.0 x\n", None),
        ("", None),
    ],
)
def test_driver_version(text, expected):
    assert parse_driver_version(text) == expected


@pytest.mark.parametrize(("text", "expected"), [(TEGRA_6, "36.4.3"), (TEGRA_7, "39.2.0"), ("", None), ("# R", None)])
def test_l4t_version(text, expected):
    assert parse_l4t_version(text) == expected


def test_jetpack_version():
    assert parse_jetpack_version(PACKAGES) == "6.2"
    entry = "Package: nvidia-jetpack\nStatus: "
    removed = PACKAGES.replace(f"{entry}install ok installed", f"{entry}deinstall ok config-files")
    assert removed != PACKAGES
    assert parse_jetpack_version(removed) is None
    assert parse_jetpack_version("") is None


@pytest.fixture
def installed(monkeypatch):
    """A library of that version, as far as the environment asks."""
    library = type(sys)("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)


def test_a_jetson(installed, tmp_path, monkeypatch):
    for name, text in (("_DRIVER_FILE", JETSON_DRIVER), ("_L4T_FILE", TEGRA_6), ("_PACKAGES_FILE", PACKAGES)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(environment, name, tmp_path / name)
    monkeypatch.setattr(environment, "cuda_device", lambda device: CudaDevice("Orin", "8.7", shares_memory=True))
    found = current_environment("tensorrt")
    assert (found.runtime, found.runtime_version) == ("tensorrt", "10.3.0")
    assert (found.device_name, found.compute_capability) == ("Orin", "8.7")
    assert (found.driver, found.jetpack) == ("540.4.0", "6.2 (L4T 36.4.3)")
    assert (found.operating_system, found.architecture) == (platform.system(), platform.machine())
    (tmp_path / "_PACKAGES_FILE").unlink()
    assert current_environment("tensorrt").jetpack == "L4T 36.4.3"


def test_a_machine_without_a_gpu(installed, tmp_path, monkeypatch):
    for name in ("_DRIVER_FILE", "_L4T_FILE", "_PACKAGES_FILE"):
        monkeypatch.setattr(environment, name, tmp_path / name)
    monkeypatch.setattr(environment, "cuda_device", lambda device: None)
    found = current_environment("tensorrt")
    assert (found.device_name, found.compute_capability, found.driver, found.jetpack) == (None,) * 4


def test_the_library_that_is_here():
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    assert current_environment("tensorrt-rtx").runtime_version == tensorrt_rtx.__version__


def test_a_library_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvinfer-is-not-there.so.10')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingDependency, match=r"does not load \(.*libnvinfer-is-not-there") as caught:
        bindings("tensorrt", purpose="building")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("is_jetson", "hint"), [(True, "sudo apt install python3-libnvinfer-dev"), (False, r"overnet\[gpu\]")]
)
def test_where_tensorrt_comes_from(tmp_path, monkeypatch, is_jetson, hint):
    release = tmp_path / "nv_tegra_release"
    if is_jetson:
        release.write_text(TEGRA_6)
    monkeypatch.setattr(environment, "_L4T_FILE", release)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match=hint):
        bindings("tensorrt", purpose="building an engine")


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu sse4_2 avx avx2 fma\n", False),
        ("Features\t: fp asimd\n", False),
        (None, True),
    ],
)
def test_fast_int8(tmp_path, text, fast):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert has_fast_int8(tmp_path / "cpuinfo") is fast
