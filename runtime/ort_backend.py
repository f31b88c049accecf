"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.artifact import INPUT_NAME, OUTPUT_NAME, read_artifact
from overnet.errors import ArtifactError, BackendError, require
from overnet.runtime.backend import Pictures, Statistics, check_precision, is_out_of_memory
from overnet.runtime.host_backend import HostBackend
from overnet.runtime.onnx_means import up_to_means, with_given_means
from overnet.runtime.options import BackendOptions


class OnnxRuntimeBackend(HostBackend):
    """An ONNX file run by ONNX Runtime's CPU provider. See `overnet.runtime.backend.Backend`.

    Parameters
    ----------
    model : an ONNX file of ours.
    scale : must be the file's own.
    options : the precision is ``"fp32"``.

    Raises
    ------
    ArtifactError : the file is broken or not ours.
    BackendError : ONNX Runtime cannot load it, or another precision is asked for.
    """

    name = "onnxruntime"
    device = "CPU"
    # Overscale 5, x4: measured 5,500 (tests/runtime/test_memory.py).
    bytes_per_pixel = 6_500

    def __init__(self, model: Path, scale: float, options: BackendOptions) -> None:
        onnxruntime = require("onnxruntime", extra="ort", purpose="the backend onnxruntime")
        self.scale = read_artifact(model).scale
        if scale != self.scale:
            raise ArtifactError(f"{model}: made for scale {self.scale:g}, not {scale:g}")
        self.precision = options.precision or "fp32"
        check_precision(self.precision, ("fp32",), backend=self.name)
        session_options = onnxruntime.SessionOptions()
        # Warnings about the machine (no GPU, unknown CPU) are not the user's business; errors arrive as exceptions.
        session_options.log_severity_level = 4
        session_options.intra_op_num_threads = options.threads or os.cpu_count() or 1
        self._model, self._onnxruntime, self._session_options = model, onnxruntime, session_options
        self._session = self._loaded(model.read_bytes())
        # Made at the first tile; most runs never need them.
        self._statistics_session: Any = None
        self._tile_session: Any = None

    def upscale(self, pictures: Pictures, statistics: Statistics | None = None) -> Pictures:
        """Upscale a batch; see `overnet.runtime.backend.Backend.upscale`."""
        if statistics is None:
            return np.asarray(self._run(self._session, [OUTPUT_NAME], {INPUT_NAME: pictures})[0])
        if self._tile_session is None:
            self._tile_session = self._loaded(with_given_means(self._model))
        names = [entry.name for entry in self._tile_session.get_inputs()][1:]
        inputs = {INPUT_NAME: pictures, **dict(zip(names, statistics, strict=True))}
        return np.asarray(self._run(self._tile_session, [OUTPUT_NAME], inputs)[0])

    def statistics(self, pictures: Pictures) -> Statistics:
        """The network's means; see `overnet.runtime.backend.Backend.statistics`."""
        if self._statistics_session is None:
            self._statistics_session = self._loaded(up_to_means(self._model))
        return self._run(self._statistics_session, None, {INPUT_NAME: pictures})

    def _loaded(self, content: bytes) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        with self._reporting(f"{self._model}: ONNX Runtime cannot load it"):
            return self._onnxruntime.InferenceSession(
                content, self._session_options, providers=["CPUExecutionProvider"]
            )

    def _run(self, session: Any, outputs: list[str] | None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:  # noqa: ANN401
        with self._reporting(f"ONNX Runtime failed on {inputs[INPUT_NAME].shape}"):
            result: list[NDArray[Any]] = session.run(outputs, inputs)
            return result

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Turn ONNX Runtime's errors, which derive from Exception alone, into ours."""
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(_one_line(error)) from error
            raise BackendError(f"{what} ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
