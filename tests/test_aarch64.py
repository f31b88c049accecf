"""The base installation on an emulated 64-bit Arm processor: slow, and only where OVERNET_AARCH64=1 asks for it.

Needs root, Linux, and Debian's packages debootstrap and qemu-user-static; takes about two minutes.
"""

import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from overnet import Upscaler
from tests.conftest import ROOT

QEMU = "qemu-aarch64-static"
# Wheels are downloaded for the Python of this Debian.
DEBIAN, PYTHON = "bookworm", "3.11"
GLIBC_OF_WHEELS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 26, 27, 28, 31, 34, 35)))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("OVERNET_AARCH64") != "1", reason="OVERNET_AARCH64=1 asks for the emulation"),
]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """The root folder of an unpacked Debian for aarch64, with the package and its dependencies in /site."""
    for program in (QEMU, "debootstrap", "unshare"):
        if shutil.which(program) is None:
            pytest.fail(f"OVERNET_AARCH64 is set, and {program} is not installed")
    root = tmp_path_factory.mktemp("aarch64")
    packages = f"--include=python{PYTHON},libgl1,libglib2.0-0,libgomp1"
    bootstrap = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", packages, DEBIAN, root]
    subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
    # No program of the new system is run for it, which would take minutes under emulation.
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    shutil.copy(shutil.which(QEMU), root)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", root / "wheel", ROOT]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    (wheel,) = (root / "wheel").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", root / "site", "--only-binary=:all:"]
    install += [
        "--python-version",
        PYTHON,
        "--implementation",
        "cp",
        "--abi",
        "cp311",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ]
    platforms = [f"--platform={name}_aarch64" for name in GLIBC_OF_WHEELS]
    subprocess.run([*install, *platforms, "-c", ROOT / "constraints.txt", wheel], check=True)
    return root


@pytest.mark.parametrize("model", ["realtime", "best"])
def test_an_image_is_upscaled_as_on_this_processor(system, model):
    image = cv2.imread(str(ROOT / "samples/harbour.png"))[60:108, 80:144]
    cv2.imwrite(str(system / "small.png"), image)
    # OpenVINO reads the processor's topology from /sys. The mounts end with their name space.
    mounts = f"mount -t proc proc {system}/proc && mount --bind /sys {system}/sys && exec chroot {system} "
    # With a processor that has SVE, the emulation takes four times as long.
    python = f"/{QEMU} -cpu cortex-a72 -E PYTHONPATH=/site -E HOME=/tmp /usr/bin/python{PYTHON} -m overnet"
    arguments = f" run /small.png -o /large.png --scale 2 --model {model} --backend openvino --overwrite"
    subprocess.run(["unshare", "--mount", "sh", "-c", mounts + python + arguments], check=True, timeout=500)
    expected = Upscaler(scale=2, model=model, backend="openvino")(np.ascontiguousarray(image[..., ::-1]))
    result = cv2.imread(str(system / "large.png"))[..., ::-1]
    assert np.abs(result.astype(int) - expected).max() <= 1
