"""Convolutions in INT8, written into the graph as quantising and dequantising nodes (QDQ).

Weights are quantised for each output channel, activations for the whole tensor, both with zero points of 0. What a
rectifier gives is never negative, so that its 256 levels are all above 0 (uint8), half as far apart as with a sign;
TensorRT requires signs (int8), which `overnet.export.engine.engine_graph` gives. Biases and other nodes keep their
type. A step (the size of one level) is a number that FP16 holds exactly, because `overnet.export.precision.half`
converts it to FP16 afterwards, and it is large enough that no known value is clipped. Symmetric uniform quantisation:
Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from overnet.export.graph.builder import with_nodes
from overnet.export.precision.half import must_stay
from overnet.export.verify.declared_types import visit_tensors

LARGEST_LEVEL, LARGEST_UNSIGNED = 127, 255
# The first convolution and the enlarged image cost next to nothing and keep their precision.
_NEVER = ("entry", "base")


def candidates(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that can be quantised: not the first, those on means, or interpolations."""
    computed_from_means: set[str] = set()
    found = []
    for node in model.graph.node:
        on_means = node.op_type == "GlobalAveragePool" or node.input[0] in computed_from_means
        if on_means and node.op_type != "Mul":
            computed_from_means.add(node.output[0])
        elif node.op_type == "Conv" and not (node.name in _NEVER or must_stay(node) or node.name.endswith(".resize")):
            found.append(node.name)
    return found


def largest_inputs(model: onnx.ModelProto, images: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Measure the largest magnitude in the input of each candidate, by the input's name.

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


def quantize(
    model: onnx.ModelProto, largest: Mapping[str, float], layers: Set[str], *, signed: bool = False
) -> onnx.ModelProto:
    """Quantise some convolutions.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        largest: from `largest_inputs`.
        layers: names of candidates.
        signed: whether the levels of a rectifier's results have a sign too, for TensorRT.

    Returns:
        A new model, in FP32 except for the levels.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    quantized: set[str] = set()
    rectified = set() if signed else {node.output[0] for node in graph.node if node.op_type == "Relu"}
    for node in graph.node:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        if node.name in layers:
            x, weight = node.input[:2]
            if x not in quantized:
                quantized.add(x)
                levels, zero = (LARGEST_UNSIGNED, np.uint8(0)) if x in rectified else (LARGEST_LEVEL, np.int8(0))
                step = step_for(np.float32(largest[x]), levels)
                added.append(numpy_helper.from_array(np.asarray(step), f"{x}.step"))
                added.append(numpy_helper.from_array(np.asarray(zero), f"{x}.zero"))
                for operator, of, name in (
                    ("QuantizeLinear", x, f"{x}.levels"),
                    ("DequantizeLinear", f"{x}.levels", f"{x}.dequantized"),
                ):
                    nodes.append(helper.make_node(operator, [of, f"{x}.step", f"{x}.zero"], [name], name=name))
            if weight not in quantized:
                quantized.add(weight)
                weight_levels, steps = quantized_weight(numpy_helper.to_array(constants[weight]))
                parts: dict[str, NDArray[Any]] = {
                    "levels": weight_levels,
                    "steps": steps,
                    "zeros": np.zeros(len(steps), np.int8),
                }
                added += [numpy_helper.from_array(value, f"{weight}.{part}") for part, value in parts.items()]
                names, name = [f"{weight}.{part}" for part in parts], f"{weight}.dequantized"
                nodes.append(helper.make_node("DequantizeLinear", names, [name], name=name, axis=0))
            result.input[0], result.input[1] = f"{x}.dequantized", f"{weight}.dequantized"
        nodes.append(result)
    used = {name for node in nodes for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    return with_nodes(model, nodes, [*kept, *added])


def quantized_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a weight's levels, in the same shape, and the step of each output channel."""
    steps = step_for(np.abs(weight).max(axis=(1, 2, 3)))
    levels = np.rint(weight / steps.reshape(-1, 1, 1, 1)).astype(np.int8)
    return levels, steps


def step_for(largest: NDArray[np.float32], levels: int = LARGEST_LEVEL) -> NDArray[np.float32]:
    """Return the smallest step that FP16 holds and with which a number is within some levels.

    It is 1 for zero, and FP16's largest number where no step is large enough.
    """
    exact = np.asarray(largest, np.float32) / levels
    limits = np.finfo(np.float16)
    half = np.clip(exact, float(limits.smallest_subnormal), float(limits.max)).astype(np.float16)
    half = np.where(half.astype(np.float32) < exact, np.nextafter(half, np.float16(np.inf)), half)
    steps: NDArray[np.float32] = np.where(exact == 0, 1, np.minimum(half, limits.max)).astype(np.float32)
    return steps
