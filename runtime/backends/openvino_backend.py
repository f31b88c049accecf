"""OpenVINO on the CPU: the default backend where there is no GPU."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.errors import ArtifactError, require
from overnet.files.onnx_metadata import read_artifact
from overnet.runtime.backends.base import Backend, BackendOptions, check_precision, memory_per_pixel, reporting
from overnet.system.ending_signals import raise_if_ended
from overnet.system.openvino_core import openvino_core
from overnet.types import ChannelMeans, ImageBatch

_SLICE_MS = 100
# OpenVINO keeps what it prepared for each layer and size of image: 5,000 such entries by default, with which the memory
# of a run over images of many sizes grew by 440 MB. These are enough for the few sizes of an image's tiles.
_KEPT_PREPARATIONS = "400"
# Overscale 5, x4: measured 12,900 (tests/runtime/backends/test_memory.py).
_BYTES_PER_PIXEL = 14_000
# What is not INT8 in an INT8 file is computed in FP32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoBackend(Backend):
    """An ONNX file compiled by OpenVINO for the CPU. See `overnet.runtime.backends.base.Backend`.

    Args:
        model: an ONNX file that OverNet exported.
        scale: must be the file's own.
        options: the precision is ``"int8"`` for an INT8 file; for others ``"fp32"``, the default, or ``"bf16"``
            where the CPU supports it.

    Raises:
        ArtifactError: the file is broken or not made by OverNet.
        BackendError: OpenVINO cannot compile it, or the CPU does not support the precision.
    """

    name = "openvino"

    def __init__(self, model: Path, scale: float, options: BackendOptions) -> None:
        openvino = require("openvino", extra="", purpose="the backend openvino")
        artifact = read_artifact(model)
        self.scale, self.reach, self.foreign = artifact.scale, artifact.reach, artifact.foreign
        if scale != self.scale:
            raise ArtifactError(f"{model}: made for scale {self.scale:g}, not {scale:g}")
        self.bytes_per_pixel = memory_per_pixel(artifact, _BYTES_PER_PIXEL)
        self._openvino = openvino
        self._operators = require("openvino.opset8", extra="", purpose="the backend openvino")
        core = openvino_core()
        supported = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # An INT8 file's other nodes are in FP32, so that either may be asked for.
        possible = ("int8", "fp32") if artifact.precision == "int8" else ("fp32", "bf16")
        self.precision = options.precision or possible[0]
        check_precision(
            self.precision, tuple(each for each in possible if each != "bf16" or "BF16" in supported), backend=self.name
        )
        self.device = f"CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME').strip()})"
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_PREPARATIONS,
        }
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = str(options.threads)
        self._model, self._core, self._properties = model, core, properties
        self._request = self._compiled(self._read())
        # Compiled at the first tile; most runs never need them. The key is whether means are given.
        self._means_requests: dict[bool, Any] = {}
        self._tile_request: Any = None
        self._abandoned_inputs: list[NDArray[Any]] = []
        self.check_results(model, lambda inputs: self._run(self._request, inputs))

    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch; see `overnet.runtime.backends.base.Backend.upscale`."""
        if channel_means is None:
            return np.asarray(self._run(self._request, [images])[0])
        if self._tile_request is None:
            graph = self._read()
            graph.add_parameters(self._given(_means(graph)))
            self._tile_request = self._compiled(graph)
        return np.asarray(self._run(self._tile_request, [images, *channel_means])[0])

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """Return the network's means; see `overnet.runtime.backends.base.Backend.channel_means`."""
        are_given = given is not None
        if are_given not in self._means_requests:
            self._means_requests[are_given] = self._compiled(self._up_to_means(given=are_given))
        return self._run(self._means_requests[are_given], [images, *(given or [])])

    def _read(self) -> Any:
        # The bindings raise further types for damaged files, such as UnicodeDecodeError.
        with reporting(f"{self._model}: OpenVINO cannot load it", errors=Exception, line=-1):
            return self._core.read_model(str(self._model))

    def _compiled(self, graph: Any) -> Any:
        with reporting(f"{self._model}: OpenVINO cannot load it", errors=Exception, line=-1):
            return self._core.compile_model(graph, "CPU", self._properties).create_infer_request()

    def _up_to_means(self, *, given: bool) -> Any:
        """Return the graph that outputs the means over the image, and with `given` has means as further inputs."""
        graph = self._read()
        means = _means(graph)
        parameters = graph.get_parameters() + (self._given(means) if given else [])
        ends = [self._operators.result(mean.output(0)) for mean in means]
        return self._openvino.Model(ends, parameters, "channel_means")

    def _given(self, means: list[Any]) -> list[Any]:
        """Replace the means of a graph by new inputs, and return these."""
        given = []
        for mean in means:
            parameter = self._operators.parameter(mean.output(0).get_partial_shape(), np.float32)
            for consumer in mean.output(0).get_target_inputs():
                consumer.replace_source_output(parameter.output(0))
            given.append(parameter)
        return given

    def _run(self, request: Any, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        with reporting(f"OpenVINO failed on {inputs[0].shape}", errors=Exception, line=-1):
            request.start_async(inputs, share_inputs=True)
            try:
                # In slices, because Python handles Ctrl-C only between them; a large image takes a minute.
                while not request.wait_for(_SLICE_MS):
                    raise_if_ended()
                request.wait()  # raises the error of a failed run
            except KeyboardInterrupt:
                request.cancel()
                # Cancelling does not stop a run at once: it continues to read these.
                self._abandoned_inputs = inputs
                raise
            except Exception:
                # The run itself may continue, and its request takes no other until it has ended.
                request.cancel()
                with suppress(Exception):
                    request.wait()
                raise
        # The request's output buffers are reused by its next run, so the caller gets copies.
        return [np.array(tensor.data, copy=True) for tensor in request.output_tensors]


def _means(graph: Any) -> list[Any]:
    """Return the nodes that compute a mean over height and width, in the order of computation."""
    means = [node for node in graph.get_ordered_ops() if node.get_type_name() == "ReduceMean"]
    # Another program's network may have means over channels too.
    return [node for node in means if list(node.output(0).get_partial_shape())[2:] == [1, 1]]
