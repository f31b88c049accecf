"""Running functions over the doubles in another process: the driver must be loaded before Python starts."""

import atexit
import functools
import importlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.cuda_driver import SONAME, DoublesUnavailable, driver_folder
from tests.doubles.pycuda_build import pycuda_folder

ROOT = Path(__file__).parents[2]
needs_cuda_core = pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-core is not installed")
_TAIL = 6000
# Without ONNX Runtime and OpenVINO, which start threads: a process with several threads cannot be forked safely.
_PRELOADED = (
    *("av", "cv2", "onnx", "pycuda.driver", "overnet.cli", "overnet.runtime.upscale_file"),
    *("overnet.runtime.backends.trt.backend", "overnet.benchmarks.gpu_checks"),
)


def stand_in_environment(env: dict[str, str] | None = None, *, rtx: bool = False) -> dict[str, str]:
    """Return the environment for a process that loads the doubles as CUDA, PyCUDA and TensorRT.

    The calling test is skipped where the doubles cannot be built, unless ``OVERNET_REQUIRE_DOUBLES`` is 1.

    Args:
        env: more variables; see `tests.doubles.cuda_driver` for what the driver reads.
        rtx: whether the double of TensorRT-RTX replaces the real library as well.
    """
    try:
        driver, pycuda = driver_folder(), pycuda_folder()
    except DoublesUnavailable as error:
        if os.environ.get("OVERNET_REQUIRE_DOUBLES") == "1":
            raise
        pytest.skip(str(error))
    doubles = Path(__file__).parent
    modules = [ROOT, doubles / "tensorrt_double", pycuda]
    if rtx:
        modules.insert(1, doubles / "tensorrt_rtx_double")
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(map(str, modules)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(driver), os.environ.get("LD_LIBRARY_PATH")])),
        # PyCUDA's extension is not linked against the driver.
        "LD_PRELOAD": str(driver / SONAME),
        "PYTHONFAULTHANDLER": "1",
        **(env or {}),
    }


def run_over_stand_in(
    module_function: str, *args: Any, env: dict[str, str] | None = None, timeout: float = 120, rtx: bool = False
) -> Any:
    """Call a function in a process over the doubles, and return its result.

    Args:
        module_function: such as ``"tests.support.cuda_scenarios:one_image"``.
        args: its arguments, JSON types, as must be its result.
        env, rtx: see `stand_in_environment`.
        timeout: in seconds.

    Raises:
        AssertionError: the exit code is not 0, also after the function returned, such as where PyCUDA aborts at exit
            because a context is still pushed. The message has the output.
    """
    environment = stand_in_environment(env, rtx=rtx)
    with tempfile.TemporaryDirectory() as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        request = {"call": module_function, "args": args, "env": environment, "result": result, "output": output}
        code = _server(rtx).run(json.dumps(request, default=str), timeout)
        if code == 0:
            return json.loads(result.read_text())
        how = f"not done after {timeout} s" if code is None else f"exit code {code}"
        raise AssertionError(f"{module_function}: {how}\n{output.read_text(errors='replace')[-_TAIL:]}")


class _Server:
    """A process over the doubles that has imported what most functions need, and forks a process for each of them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},  # NumPy would start threads, too
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that what was not read yet is seen by `select`
            start_new_session=True,
        )
        atexit.register(self._close)

    def run(self, request: str, timeout: float) -> int | None:
        """Return the exit code of a request's process; None where it took longer than `timeout` seconds."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        requests.write(f"{request}\n".encode())
        child = int(answers.readline())
        ready, _, _ = select.select([answers], [], [], timeout)
        if not ready:
            os.kill(child, signal.SIGKILL)
        code = int(answers.readline())
        return code if ready else None

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def _server(rtx: bool) -> _Server:
    return _Server(stand_in_environment(rtx=rtx))


def _serve() -> None:
    """Fork a process for each request on stdin. In that process return, so that Python ends as it does otherwise."""
    for name in _PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "an imported module has started a thread"
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _call(json.loads(line))
            return
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _call(request: dict[str, Any]) -> None:
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in set(os.environ) - set(request["env"]):
        del os.environ[name]
    os.environ.update(request["env"])
    module, _, name = request["call"].partition(":")
    value = getattr(importlib.import_module(module), name)(*request["args"])
    Path(request["result"]).write_text(json.dumps(value))


if __name__ == "__main__":
    _serve()
