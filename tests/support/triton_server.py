"""A real Triton Inference Server on the loopback interface: the one that the wheel nvidia-pytriton brings.

The wheel has Triton's Python backend for each version of Python, and no other backend. It needs another NumPy than the
other tests, so it is installed apart, in the cache of `tests.doubles`; ``python -m tests.support.triton_server`` does
that in advance, in about a minute.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.doubles.cuda_driver import DoublesUnavailable, built_once
from tests.support.needs_live import free_port

VERSION = "0.7.0"
_START_SECONDS = 120
_STOP_SECONDS = 40


def packages_folder() -> Path:
    """Return the folder with the server, its client, and what OverNet needs, after installing them at first use.

    Raises:
        DoublesUnavailable: the wheel is not for this machine, or cannot be downloaded.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise DoublesUnavailable("nvidia-pytriton is for Linux on x86-64")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        raise DoublesUnavailable("this Python has no shared library, which Triton's Python backend loads")
    # The version of the other tests, which compute what the server's results have to be.
    openvino = importlib.metadata.version("openvino")
    with built_once(f"pytriton-{VERSION}-cp{version}-openvino-{openvino}") as (folder, work):
        if work is not None:
            needed = importlib.metadata.requires("overnet") or []
            base = [requirement for requirement in needed if "extra ==" not in requirement]
            pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", work)
            wanted = (f"nvidia-pytriton=={VERSION}", "numpy<2", f"openvino=={openvino}", *base)
            done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
            if done.returncode:
                raise DoublesUnavailable(f"nvidia-pytriton cannot be installed:\n{done.stderr[-2000:]}")
            server = _server(work)
            stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
            for program in (server / "bin/tritonserver", Path(shutil.copy(stub, server / "backends/python"))):
                program.chmod(0o755)
    return folder


def _server(folder: Path) -> Path:
    return folder / "pytriton/tritonserver"


class TritonServer:
    """A server of a repository, with a Python of its own that has OverNet and the client.

    The calling test is skipped where the server cannot be installed, unless ``OVERNET_REQUIRE_TRITON`` is 1.

    Args:
        repository: what it serves.
        work: an empty folder for it.
        flags: further arguments of the program.

    Attributes:
        http, grpc, metrics: the ports.
        python: the program that runs what needs the client.
    """

    def __init__(self, repository: Path, work: Path, flags: Iterable[str] = ()) -> None:
        try:
            packages = packages_folder()
        except DoublesUnavailable as error:
            if os.environ.get("OVERNET_REQUIRE_TRITON") == "1":
                pytest.fail(f"OVERNET_REQUIRE_TRITON is set: {error}")
            pytest.skip(str(error))
        self.http, self.grpc, self.metrics = (free_port() for _ in range(3))
        venv.create(work / "venv", symlinks=True)
        self.python = work / "venv/bin/python"
        # Triton's Python backend is isolated from PYTHONPATH.
        (site,) = (work / "venv/lib").glob("python*/site-packages")
        (site / "served.pth").write_text(f"{packages}\n{ROOT}\n")
        self._log = work / "log"
        server = _server(packages)
        self._command = [server / "bin/tritonserver", f"--model-repository={repository}"]
        for kind, port in (("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)):
            self._command.append(f"--{kind}-port={port}")
        # The networks' own backends are not in the wheel.
        self._command += flags
        self._command += [f"--backend-directory={server / 'backends'}", "--exit-on-error=false"]
        self.environment = {
            **os.environ,
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        }

    def __enter__(self) -> TritonServer:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + _START_SECONDS
        try:
            while not self._is_up():
                assert self._process.poll() is None and time.monotonic() < end, self.log()
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(errors="replace")

    def is_alive(self) -> bool:
        """Return whether it runs on."""
        return self._process.poll() is None

    def get(
        self, path: str, *, port: int | None = None, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Return the status and text of the answer to a request by HTTP: POST with data, else GET."""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.http}/{path}", data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def client(self, function: str, *arguments: object) -> object:
        """Return the result of a function in `tests.support.triton_client`, run beside the server, from JSON."""
        done = subprocess.run(
            [self.python, "-m", "tests.support.triton_client", function, json.dumps(arguments, default=str)],
            env=self.environment,
            cwd=self._log.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _is_up(self) -> bool:
        try:
            return self.get("v2/health/live")[0] == 200
        except OSError:
            return False


if __name__ == "__main__":
    print(packages_folder())
