"""Running functions over the doubles in another process: the driver must be loaded before Python starts."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.cuda_driver import SONAME, DoublesUnavailable, driver_folder
from tests.doubles.pycuda_build import pycuda_folder

ROOT = Path(__file__).parents[2]
needs_cuda_core = pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-core is not installed")
_TAIL = 6000


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
        module_function: such as ``"tests.runtime.backends.trt.cuda_scenarios:one_image"``.
        args: its arguments, JSON types, as must be its result.
        env, rtx: see `stand_in_environment`.
        timeout: in seconds.

    Raises:
        AssertionError: the exit code is not 0, also after the function returned, such as where PyCUDA aborts at exit
            because a context is still pushed. The message has the output.
    """
    environment = stand_in_environment(env, rtx=rtx)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", __name__, module_function, json.dumps(args), str(result)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired as error:
            output = [text.decode(errors="replace")[-_TAIL:] for text in (error.stdout, error.stderr) if text]
            raise AssertionError("\n".join([f"{module_function}: not done after {timeout} s", *output])) from error
        if done.returncode:
            output = [done.stdout[-_TAIL:], done.stderr[-_TAIL:]]
            raise AssertionError("\n".join([f"{module_function}: exit code {done.returncode}", *output]))
        return json.loads(result.read_text())


def _main() -> None:
    module_function, args, result = sys.argv[1:]
    module, _, name = module_function.partition(":")
    value = getattr(importlib.import_module(module), name)(*json.loads(args))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    _main()
