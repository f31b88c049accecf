"""The shape and type of every tensor in a graph, by running it once: others' graphs compute shapes as they go."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from overnet.export.foreign.convention import Runner
from overnet.files.onnx_metadata import INPUT_NAME

_SHAPE = "shape.of."


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
