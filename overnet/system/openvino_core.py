"""The one OpenVINO core of a process."""

from functools import cache
from typing import Any

from overnet.errors import require


@cache
def openvino_core() -> Any:
    """Return the core that compiles all models; it exists as long as the process.

    A core's CPU plugin installs a signal stack, and restores the previous one when the core is destroyed. Of two cores
    that are destroyed in the order of their creation, the second restores the stack of the first, which is freed, and
    the next signal, such as Ctrl-C, ends the process with a segmentation fault (seen with OpenVINO 2026.4).

    Raises:
        MissingDependency: OpenVINO is not installed, or does not load.
    """
    return require("openvino", extra="", purpose="running an ONNX file on the CPU").Core()
