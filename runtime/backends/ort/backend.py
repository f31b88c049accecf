"""ONNX Runtime: on the CPU, or with another of its execution providers on a GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from overnet.errors import ArtifactError, require
from overnet.files.onnx_metadata import read_artifact, scaled_size
from overnet.runtime.backends.base import Backend, BackendOptions, memory_per_pixel, reporting
from overnet.runtime.backends.ort.binding import BoundSession
from overnet.runtime.backends.ort.profiled import ProfiledSession
from overnet.runtime.backends.ort.providers import Provider
from overnet.runtime.backends.ort.tile_models import up_to_means, with_given_means
from overnet.runtime.tiling import tile_for_memory
from overnet.types import ChannelMeans, ImageBatch

# Overscale 5, x4, on the CPU: measured 5,500 (tests/runtime/backends/test_memory.py).
_BYTES_PER_PIXEL = 6_500
# On a GPU, for the workspace of convolutions; not measured.
_GPU_FACTOR = 2

Session: TypeAlias = BoundSession | ProfiledSession


class OnnxRuntimeBackend(Backend):
    """An ONNX file run by ONNX Runtime. See `overnet.runtime.backends.base.Backend`.

    The options `provider` and `device` choose what computes; `overnet.runtime.backends.ort.providers` says what each
    provider needs. `slots`, `zero_copy` and `cuda_graphs` have no effect: a frame is copied to the GPU, computed and
    copied back before the next one.

    Args:
        model: an ONNX file that OverNet exported.
        scale: must be the file's own.
        options: the precision is ``"fp32"`` on the CPU, and the file's own on a GPU, where TensorRT can also compute an
            FP32 file in ``"fp16"``.

    Raises:
        ArtifactError: the file is broken or not made by OverNet.
        InputError: there is no such device.
        MissingDependency: a library that the provider needs is not installed.
        BackendError: ONNX Runtime or the provider cannot load it, or does not support the precision.
    """

    name = "onnxruntime"

    def __init__(self, model: Path, scale: float, options: BackendOptions) -> None:
        onnxruntime = require("onnxruntime", extra="ort", purpose="the backend onnxruntime")
        artifact = read_artifact(model)
        self.scale, self.reach, self.foreign = artifact.scale, artifact.reach, artifact.foreign
        if scale != self.scale:
            raise ArtifactError(f"{model}: made for scale {self.scale:g}, not {scale:g}")
        self._provider = Provider(onnxruntime, options, artifact.precision)
        self.device, self.precision = self._provider.device, self._provider.precision
        factor = _GPU_FACTOR if self._provider.on_gpu else 1
        self.bytes_per_pixel = factor * memory_per_pixel(artifact, _BYTES_PER_PIXEL)
        self._model = model
        self._session = self._loaded(model.read_bytes())
        # Read once, before the first run: memory that ONNX Runtime's arena keeps after a run counts as used, though the
        # next run can use it.
        self._gpu_bytes = self._provider.free_memory_bytes()
        # Opened at the first tile; most runs never need them. The key is whether means are given.
        self._means_sessions: dict[bool, Session] = {}
        self._tile_session: Session | None = None
        if not self._provider.on_gpu:  # there the provider may build an engine for the size, which takes minutes
            self.check_results(model, self._session.run_once)

    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch; see `overnet.runtime.backends.base.Backend.upscale`."""
        count, height, width, channels = images.shape
        upscaled = (count, *scaled_size(height, width, self.scale), channels)
        if channel_means is None:
            return self._run(self._session, [images], upscaled)[0]
        if self._tile_session is None:
            self._tile_session = self._loaded(with_given_means(self._model))
        return self._run(self._tile_session, [images, *channel_means], upscaled)[0]

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """Return the network's means; see `overnet.runtime.backends.base.Backend.channel_means`."""
        are_given = given is not None
        if are_given not in self._means_sessions:
            self._means_sessions[are_given] = self._loaded(up_to_means(self._model, given=are_given))
        return self._run(self._means_sessions[are_given], [images, *(given or [])], None)

    def tile_for(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the largest tile that fits the memory; see `overnet.runtime.backends.base.Backend.tile_for`."""
        if self._gpu_bytes is None:
            return super().tile_for(height, width)
        return tile_for_memory(height, width, self.bytes_per_pixel, available_bytes=self._gpu_bytes)

    def pop_notes(self) -> list[str]:
        """Return and clear the provider's remarks; see `overnet.runtime.backends.base.Backend.pop_notes`."""
        notes, self._provider.notes = self._provider.notes, []
        return notes

    def _loaded(self, content: bytes) -> Session:
        with reporting(f"{self._model}: ONNX Runtime cannot load it", errors=Exception):
            return self._provider.open_session(content)

    def _run(
        self, session: Session, inputs: Sequence[NDArray[Any]], output_shape: tuple[int, ...] | None
    ) -> list[NDArray[Any]]:
        with reporting(f"ONNX Runtime failed on {inputs[0].shape}", errors=Exception):
            return session.run(inputs, output_shape)
