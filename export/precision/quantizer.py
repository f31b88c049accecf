"""Convolutions in INT8, written into the graph as quantising and dequantising nodes (QDQ).

Weights are quantised for each output channel, activations for the whole tensor, both symmetrically: TensorRT wants
zero points of 0. Biases and all that is no convolution keep their type. A step (the size of one level) is a number
that FP16 holds exactly, because `overnet.export.precision.half` makes FP16 of it afterwards; and it is never too
small, so that nothing known is cut off. Symmetric uniform quantisation: Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from overnet.export.precision.half import must_stay
from overnet.export.verify.declared_types import visit_tensors

LARGEST_LEVEL = 127
# What an image's border or centre needs is exact as it is, and costs next to nothing.
_NEVER = ("entry", "base")
_INTERPOLATION = ".resize"


def candidates(model: onnx.ModelProto) -> list[str]:
    """The convolutions that can be quantised, in order: all but the first, those on means, and interpolations."""
    once_an_image: set[str] = set()
    found = []
    for node in model.graph.node:
        on_means = node.op_type == "GlobalAveragePool" or node.input[0] in once_an_image
        if on_means and node.op_type != "Mul":
            once_an_image.add(node.output[0])
        elif node.op_type == "Conv" and not (node.name in _NEVER or must_stay(node) or _interpolates(node)):
            found.append(node.name)
    return found


def _interpolates(node: onnx.NodeProto) -> bool:
    return str(node.name).endswith(_INTERPOLATION)


def largest_inputs(model: onnx.ModelProto, images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """The largest magnitude in the input of each candidate, by the input's name.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        images: H x W x 3 uint8 each.
    """
    chosen = set(candidates(model))
    inputs = {node.input[0] for node in model.graph.node if node.name in chosen}
    largest = dict.fromkeys(inputs, 0.0)
    for image in images:
        for node, result in visit_tensors(model, image[None]):
            name = node.output[0]
            if name in largest:
                largest[name] = max(largest[name], float(result.abs().max()))
    return largest


def quantize(model: onnx.ModelProto, largest: Mapping[str, float], layers: Set[str]) -> onnx.ModelProto:
    """Quantise some convolutions.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        largest: from `largest_inputs`.
        layers: names of candidates.

    Returns:
        A new model, in FP32 but for the levels.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, list[onnx.TensorProto]] = {}
    quantized: set[str] = set()
    for node in graph.node:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        if node.name in layers:
            x, weight = node.input[:2]
            if x not in quantized:
                quantized.add(x)
                step = step_for(np.float32(largest[x]))
                added[x] = [_constant(f"{x}.step", step), _constant(f"{x}.zero", np.int8(0))]
                nodes.append(_node("QuantizeLinear", [x, f"{x}.step", f"{x}.zero"], f"{x}.levels"))
                nodes.append(_node("DequantizeLinear", [f"{x}.levels", f"{x}.step", f"{x}.zero"], f"{x}.dequantized"))
            if weight not in quantized:
                quantized.add(weight)
                levels, steps = quantized_weight(numpy_helper.to_array(constants[weight]))
                added[weight] = [
                    _constant(f"{weight}.levels", levels),
                    _constant(f"{weight}.steps", steps),
                    _constant(f"{weight}.zeros", np.zeros(len(steps), np.int8)),
                ]
                names = [constant.name for constant in added[weight]]
                nodes.append(_node("DequantizeLinear", names, f"{weight}.dequantized", axis=0))
            result.input[0], result.input[1] = f"{x}.dequantized", f"{weight}.dequantized"
        nodes.append(result)
    used = {name for node in nodes for name in node.input}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constant for constant in graph.initializer if constant.name in used)
    copy.graph.initializer.extend(constant for group in added.values() for constant in group)
    return copy


def quantized_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight's levels, in the same shape, and the step of each output channel."""
    steps = step_for(np.abs(weight).max(axis=(1, 2, 3)))
    levels = np.rint(weight / steps.reshape(-1, 1, 1, 1)).astype(np.int8)
    return levels, steps


def step_for(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step with which so large a number is still within 127 levels: the next larger one that FP16 holds.

    For zero it is 1. What FP16 cannot hold at all gets FP16's largest number.
    """
    exact = np.asarray(largest, np.float32) / LARGEST_LEVEL
    limits = np.finfo(np.float16)
    half = np.clip(exact, float(limits.smallest_subnormal), float(limits.max)).astype(np.float16)
    half = np.where(half.astype(np.float32) < exact, np.nextafter(half, np.float16(np.inf)), half)
    steps: NDArray[np.float32] = np.where(exact == 0, 1, np.minimum(half, limits.max)).astype(np.float32)
    return steps


def _constant(name: str, value: NDArray[np.float32] | NDArray[np.int8] | np.int8) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _node(operator: str, inputs: list[str], name: str, **attributes: int) -> onnx.NodeProto:
    node = helper.make_node(operator, inputs, [name], name=name)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node
