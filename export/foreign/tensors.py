"""The shape, type and range of every tensor in a graph, by running it: others' graphs compute shapes as they go."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from overnet.export.foreign.convention import Runner
from overnet.files.onnx_metadata import INPUT_NAME
from overnet.types import Image

_SHAPE = "shape.of."
FLOAT = TensorProto.FLOAT


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor that a graph computes; constants are left out."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}


def tensor_shapes(model: onnx.ModelProto, height: int, width: int) -> dict[str, list[int]]:
    """Return the shape of every tensor that a wrapped graph computes for an image of this size."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    for name in names:
        copy.graph.node.append(helper.make_node("Shape", [name], [_SHAPE + name], name=_SHAPE + name))
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(_SHAPE + name, TensorProto.INT64, None) for name in names)
    image = np.zeros((1, height, width, 3), np.uint8)
    found = Runner(copy.SerializeToString()).run(image)
    shapes = {name: [int(side) for side in shape] for name, shape in zip(names, found, strict=True)}
    return {INPUT_NAME: list(image.shape), **shapes}


def from_image(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that depend on the image's content, and not on its size alone."""
    found = {INPUT_NAME}
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and any(name in found for name in node.input):
            found.update(node.output)
    return found


def largest_magnitudes(model: onnx.ModelProto, images: list[Image]) -> dict[str, float]:
    """Measure the largest magnitude in every floating-point tensor that a wrapped FP32 graph computes.

    Args:
        images: H x W x 3 uint8 each.
    """
    types = tensor_types(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if types.get(name) == FLOAT]
    for name in names:
        magnitude, largest = f"magnitude.of.{name}", f"largest.of.{name}"
        copy.graph.node.append(helper.make_node("Abs", [name], [magnitude], name=magnitude))
        copy.graph.node.append(helper.make_node("ReduceMax", [magnitude], [largest], name=largest, keepdims=0))
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(f"largest.of.{name}", FLOAT, None) for name in names)
    runner = Runner(copy.SerializeToString())
    measured = [[float(each) for each in runner.run(image[None])] for image in images]
    return {name: max(each) for name, each in zip(names, zip(*measured, strict=True), strict=True)}
