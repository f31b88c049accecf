"""The build of unmodified PyCUDA for the running Python, for which CUDA's headers suffice.

``python -m tests.doubles.pycuda_build`` builds it in advance, in about two minutes; otherwise the first test that needs
it does.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from tests.doubles.cuda_driver import DoublesUnavailable, built_once, cuda_root

VERSION = "2026.1"


def pycuda_folder() -> Path:
    """Return the folder with PyCUDA and its dependencies except NumPy, for PYTHONPATH, after building it at first use.

    Raises:
        DoublesUnavailable: CUDA's headers or a compiler are missing, or the source cannot be downloaded.
    """
    root = cuda_root()
    headers = hashlib.sha256((root / "include" / "cuda.h").read_bytes()).hexdigest()[:8]
    tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    with built_once(f"pycuda-{VERSION}-{tag}-{headers}") as (folder, work):
        if work is not None:
            _build(root, work)
    return folder


def _build(root: Path, work: Path) -> None:
    scratch = work.with_name("source")
    scratch.mkdir()
    if shutil.which("g++") is None:
        raise DoublesUnavailable("no g++")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    try:
        # Without isolation, it is built with the installed NumPy.
        options = ("--no-deps", "--no-binary", "pycuda", "--no-build-isolation")
        _run(*pip, "download", *options, "-d", str(scratch), f"pycuda=={VERSION}")
    except subprocess.CalledProcessError as error:
        raise DoublesUnavailable(f"PyCUDA's source cannot be downloaded:\n{error.output[-2000:]}") from error
    with tarfile.open(scratch / f"pycuda-{VERSION}.tar.gz") as archive:
        archive.extractall(scratch, filter="data")
    source = scratch / f"pycuda-{VERSION}"
    # It is linked against an empty library: the stand-in, which is loaded before, has the functions.
    empty = scratch / "empty"
    empty.mkdir()
    (empty / "nothing.c").write_text("")
    _run("gcc", "-shared", "-o", str(empty / "libcuda.so"), str(empty / "nothing.c"))
    try:
        configure = ("configure.py", f"--cuda-root={root}", f"--cudadrv-lib-dir={empty}", "--no-cuda-enable-curand")
        _run(sys.executable, *configure, cwd=source)
        install = ("install", "--no-build-isolation", "--target", str(work), str(source))
        _run(*pip, *install, env={**os.environ, "LIBRARY_PATH": str(empty)})
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"PyCUDA does not build:\n{error.output[-4000:]}") from error


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=cwd, env=env, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    print(pycuda_folder())
