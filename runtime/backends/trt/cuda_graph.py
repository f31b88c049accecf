"""CUDA graphs: the many small launches of a frame's work, recorded once and launched as one.

PyCUDA cannot record. `cuda.core` can, in a stream of PyCUDA's, whose handle it is given. Where it is not installed,
there are no graphs.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from overnet.errors import BackendError

_importing = threading.Lock()


class RecordedWork:
    """Work recorded in a stream, which can be launched again and again there.

    Args:
        stream: the handle of a CUDA stream, on whose context the thread is.
        enqueue: puts the work into the stream. It has run there before, so that nothing is left to be set up.

    Raises:
        BackendError: `cuda.core` is not installed, or the work cannot be recorded.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        core = _cuda_core()
        self._stream = core.Stream.from_handle(stream)
        builder = self._stream.create_graph_builder()
        try:
            # Other threads may copy and allocate meanwhile: only this one's calls are watched.
            builder.begin_building("thread_local")
            enqueue()
            builder.end_building()
            self._graph = builder.complete()
            builder.close()
        except BaseException as error:
            # Only closing ends a recording that went wrong, and says so a second time.
            with suppress(Exception):
                builder.close()
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            raise BackendError(f"the work cannot be recorded ({' '.join(str(error).split())[:200]})") from error

    def launch(self) -> None:
        """Put all of it into the stream."""
        self._graph.launch(self._stream)

    def close(self) -> None:
        """Let go of it, while nothing of it runs."""
        self._graph.close()


def _cuda_core() -> Any:
    # While one thread imports it, another finds it without its names (seen with cuda-core 1.2.2).
    with _importing:
        try:
            return importlib.import_module("cuda.core")
        except ImportError as error:
            raise BackendError("cuda-core is not installed: pip install 'overnet[cuda]'") from error
