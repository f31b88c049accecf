"""The nodes of a graph whose numbers come near FP16's largest or exceed it. Needs no torch."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from overnet.errors import require
from overnet.system.openvino_core import openvino_core

# FP16's largest number, and the factor by which tensors stay below it: other images may have larger numbers.
LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 4.0


def nodes_beyond_half(
    model: onnx.ModelProto,
    images: list[NDArray[np.uint8]],
    measure: Callable[[onnx.ModelProto, list[NDArray[np.uint8]]], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Find the nodes that must stay in FP32 because numbers in their inputs or outputs come near FP16's largest.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        images: H x W x 3 uint8 each, to measure the numbers on.
        measure: returns the largest magnitude in every floating-point tensor by its name; None measures in OpenVINO.

    Returns:
        The largest magnitude at each such node, by the node's name.
    """
    largest: dict[str, float] = {
        constant.name: float(np.abs(numpy_helper.to_array(constant)).max(initial=0))
        for constant in model.graph.initializer
        if constant.data_type == TensorProto.FLOAT
    }
    largest |= (measure or _largest_in_tensors)(model, images)
    # A weight is a known number and needs no headroom.
    weights = {constant.name for constant in model.graph.initializer}
    limits = {name: LARGEST_HALF / (1 if name in weights else HEADROOM) for name in largest}
    beyond = {}
    for node in model.graph.node:
        found = [
            largest[name] for name in (*node.input, *node.output) if largest.get(name, 0) > limits.get(name, np.inf)
        ]
        if found:
            beyond[node.name] = max(found)
    return beyond


def _largest_in_tensors(model: onnx.ModelProto, images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Measure the largest magnitude in every floating-point tensor that the graph computes."""
    openvino = require("openvino", extra="", purpose="converting an ONNX file to FP16")
    operators = openvino.opset13
    graph = openvino_core().read_model(model.SerializeToString())
    wanted = {name for node in model.graph.node for name in node.output}
    # The magnitudes are computed in the graph: returning all tensors takes five times the memory and time.
    names, magnitudes = [], []
    for operation in graph.get_ordered_ops():
        for tensor in operation.outputs():
            # A tensor has several names where a node of the ONNX graph does nothing.
            found = wanted & tensor.get_names()
            if found and tensor.get_element_type() == openvino.Type.f32:
                axes = operators.constant(np.arange(len(tensor.get_partial_shape())))
                magnitudes.append(operators.result(operators.reduce_max(operators.abs(tensor), axes, False)))
                names.append(found)
    measuring = openvino.Model(magnitudes, graph.get_parameters(), "magnitudes")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(measuring, "CPU", options).create_infer_request()
    largest: dict[str, float] = {}
    for image in images:
        request.infer([image[None]])
        for found, magnitude in zip(names, request.output_tensors, strict=True):
            for name in found:
                largest[name] = max(largest.get(name, 0.0), float(magnitude.data))
    return largest
