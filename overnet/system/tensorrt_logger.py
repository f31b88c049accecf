"""The one logger of each TensorRT library, which builders and engines share.

TensorRT keeps the first logger that a process gives it, and sends it the messages of all later builders and engines.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

# The bindings have no types that mypy could read.
Module: TypeAlias = Any

Severity = Literal["error", "warning", "info", "verbose"]
# Called from within the library with each message, so it may not raise.
Listener = Callable[[Severity, str], None]


@functools.cache
def tensorrt_logger(trt: Module) -> Any:
    """Return a library's logger, made at the first call and kept as long as the process.

    Each message goes to every function in its attribute `listeners`, a list of `Listener`.

    Args:
        trt: the library's bindings, from `overnet.system.environment.bindings`.
    """
    severities: dict[Any, Severity] = {
        trt.ILogger.INTERNAL_ERROR: "error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
        trt.ILogger.INFO: "info",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: list[Listener] = []

        def log(self, severity: Any, text: str) -> None:
            for listener in tuple(self.listeners):
                listener(severities.get(severity, "verbose"), text)

    return Logger()


@contextmanager
def listening(trt: Module, listener: Listener) -> Iterator[None]:
    """Pass a library's messages to `listener` within the context."""
    listeners = tensorrt_logger(trt).listeners
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)
