"""Multiply-accumulates and memory of a graph for each input pixel, counted from its nodes and shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from overnet.files.onnx_metadata import Artifact, scaled_size

# Height and width of the image that is counted for: so large that the work for each image (squeeze-and-excitation) and
# at its borders hardly counts.
_SIDE = 256


@dataclass(frozen=True)
class Costs:
    """The costs of upscaling one image, for each input pixel.

    Attributes:
        multiply_accumulates_per_pixel: of all convolutions and matrix products. Additions, scalings and resizes are not
            counted.
        activation_bytes_per_pixel: peak memory of the tensors, without weights, where nodes run one by one and every
            tensor is freed after its last use: the least that an engine needs that fuses nothing.
        convolution_elements_per_pixel: numbers that all convolutions together read of their inputs and write as their
            results, each once.
        widest_per_pixel: numbers in the largest tensor, without weights.
        by_layer: the multiply-accumulates of each convolution and matrix product, by its name.
    """

    multiply_accumulates_per_pixel: float
    activation_bytes_per_pixel: float
    convolution_elements_per_pixel: float
    widest_per_pixel: float
    by_layer: Mapping[str, float]


def count_costs(model: onnx.ModelProto) -> Costs:
    """Count the costs of a graph from `overnet.export.graph.network_graph.build_onnx`, in any precision."""
    return costs_of(model, *_inferred(model), _SIDE**2)


def costs_of(model: onnx.ModelProto, shapes: dict[str, list[int]], types: dict[str, int], pixels: int) -> Costs:
    """Count the costs of any graph.

    Args:
        shapes, types: of every tensor that the graph computes, for an image of `pixels` pixels.
    """
    weights = {constant.name: list(constant.dims) for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    by_layer: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = weights.get(node.input[1]) or shapes[node.input[1]]
            by_layer[node.name] = math.prod(shapes[node.output[0]]) * math.prod(weight[1:]) / pixels
        elif node.op_type == "ConvTranspose":
            weight = weights.get(node.input[1]) or shapes[node.input[1]]
            by_layer[node.name] = math.prod(shapes[node.input[0]]) * math.prod(weight[1:]) / pixels
        elif node.op_type in ("MatMul", "Gemm"):
            inner = (shapes.get(node.input[0]) or weights[node.input[0]])[-1]
            by_layer[node.name] = math.prod(shapes[node.output[0]]) * inner / pixels
    # To NumPy, which has no BF16, the helper says float32.
    item_bytes = {
        kind: 2 if kind == TensorProto.BFLOAT16 else int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
        for kind in set(types.values())
    }
    sizes = {name: math.prod(shapes[name]) * item_bytes[types[name]] for name in shapes if name not in weights}
    elements = sum(
        math.prod(shapes[name])
        for node in model.graph.node
        if node.op_type == "Conv"
        for name in (node.input[0], node.output[0])
    )
    widest = max(math.prod(shapes[name]) for name in sizes)
    return Costs(
        sum(by_layer.values()), _peak_bytes(model, sizes) / pixels, elements / pixels, widest / pixels, by_layer
    )


def _inferred(model: onnx.ModelProto) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Infer the shape and element type of every tensor."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    dimensions = copy.graph.input[0].type.tensor_type.shape.dim
    for dimension, value in zip(dimensions, (1, _SIDE, _SIDE, 3), strict=True):
        dimension.dim_value = value
    for dimension in copy.graph.output[0].type.tensor_type.shape.dim:
        dimension.Clear()
    # The inference of shapes does not divide integers, so the size of the result at a fractional scale is given to it.
    for node in copy.graph.node:
        if node.op_type == "Div" and node.name == "size":
            scale = Artifact.from_metadata({entry.key: entry.value for entry in model.metadata_props}, name="").scale
            copy.graph.initializer.append(numpy_helper.from_array(np.array(scaled_size(_SIDE, _SIDE, scale)), "size"))
            copy.graph.node.remove(node)
            break
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in values}
    return shapes, {value.name: value.type.tensor_type.elem_type for value in values}


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
