"""What a graph costs: multiply-accumulates and bytes, counted from its nodes and shapes, for every input pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

# An image so large that what is done once an image (the squeeze-and-excitation) or at its borders hardly counts,
# yet whole in all the layouts that a convolution may ask for.
_COUNTED_HEIGHT, _COUNTED_WIDTH = 256, 256


@dataclass(frozen=True)
class Costs:
    """Of one image, per input pixel.

    Attributes:
        multiply_accumulates_per_pixel: in convolutions. Additions, scalings and resizes are left out.
        activation_bytes_per_pixel: the most that is alive at one time, were each node run in order and every tensor
            freed after its last use: what an engine needs at least if it fuses nothing. Weights are not in it.
        by_layer: the multiply-accumulates of each convolution.
    """

    multiply_accumulates_per_pixel: float
    activation_bytes_per_pixel: float
    by_layer: Mapping[str, float]


def count_costs(model: onnx.ModelProto) -> Costs:
    """Count a graph's costs.

    Args:
        model: as `overnet.export.graph.network_graph.build_onnx` makes it, in any precision.
    """
    shapes, types = _inferred(model)
    weights = {constant.name: list(constant.dims) for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    pixels = _COUNTED_HEIGHT * _COUNTED_WIDTH
    by_layer = {
        node.name: math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:]) / pixels
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    sizes = {name: math.prod(shapes[name]) * _item_bytes(types[name]) for name in shapes if name not in weights}
    return Costs(sum(by_layer.values()), _peak_bytes(model, sizes) / pixels, by_layer)


def _inferred(model: onnx.ModelProto) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Shape and element type of every tensor for the counted image."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    dimensions = copy.graph.input[0].type.tensor_type.shape.dim
    for dimension, value in zip(dimensions, (1, _COUNTED_HEIGHT, _COUNTED_WIDTH, 3), strict=True):
        dimension.dim_value = value
    for dimension in copy.graph.output[0].type.tensor_type.shape.dim:
        dimension.Clear()
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in values}
    return shapes, {value.name: value.type.tensor_type.elem_type for value in values}


def _item_bytes(element_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(element_type).itemsize) if element_type != TensorProto.BFLOAT16 else 2


def _peak_bytes(model: onnx.ModelProto, sizes: dict[str, int]) -> int:
    last_use = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    alive = {model.graph.input[0].name: sizes[model.graph.input[0].name]}
    peak = 0
    for index, node in enumerate(model.graph.node):
        alive |= {name: sizes[name] for name in node.output if name in sizes}
        peak = max(peak, sum(alive.values()))
        for name in node.input:
            if last_use[name] == index:
                alive.pop(name, None)
    return peak
