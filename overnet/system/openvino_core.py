"""OpenVINO's core, one for the whole process. Needs no torch."""

from __future__ import annotations

from functools import cache
from typing import Any

from overnet.errors import require


@cache
def openvino_core() -> Any:
    """The core that everything compiles with; it lives as long as the process.

    A core's CPU plugin gives signals a stack of its own, and when it goes puts back the one that was there before.
    With two that go in the order in which they came, that is one that is gone already, and the next signal, Ctrl-C for
    one, ends the process with a segmentation fault (seen with OpenVINO 2026.4).

    Raises:
        MissingDependency: OpenVINO is not installed, or does not load.
    """
    return require("openvino", extra="", purpose="running an ONNX file on the CPU").Core()
