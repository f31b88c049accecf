"""Running any graph in exactly the number types that it declares, in ONNX Runtime.

Runtimes on a CPU compute FP16 and BF16 in FP32, which does not show what the smaller type costs. So each tensor is
rounded to its declared type by a cast there and back, in a copy of the graph that computes in FP32.
"""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from overnet.errors import ArtifactError
from overnet.export.foreign.convention import Runner
from overnet.export.foreign.read import HALVES
from overnet.export.foreign.tensors import tensor_types
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.types import Image, Upscale

_CLIP = "clipped"


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph that rounds each tensor to the type which the given graph declares for it."""
    types = tensor_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(copy)
        for place, name in enumerate(node.output):
            half = types.get(name)
            if half not in HALVES:
                continue
            if node.op_type == "Cast":
                (to,) = [attribute for attribute in copy.attribute if attribute.name == "to"]
                to.i = TensorProto.FLOAT
            copy.output[place] = f"{name}.unrounded"
            nodes.append(helper.make_node("Cast", [f"{name}.unrounded"], [f"{name}.rounded"], to=half))
            nodes.append(helper.make_node("Cast", [f"{name}.rounded"], [name], to=TensorProto.FLOAT))
    constants = [
        numpy_helper.from_array(np.asarray(numpy_helper.to_array(constant), np.float32), constant.name)
        if constant.data_type in HALVES
        else constant
        for constant in model.graph.initializer
    ]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(constants)
    return result


def levels_declared(model: onnx.ModelProto, images: list[Image]) -> list[NDArray[np.float32]]:
    """Return the results before they are clipped and rounded, 1 x 3 x scale*H x scale*W each."""
    return [levels for levels, _ in _runs(model, images)]


def upscaled_declared(model: onnx.ModelProto, images: list[Image]) -> list[Image]:
    """Return the results, scale*H x scale*W x 3 uint8 each."""
    return [upscaled for _, upscaled in _runs(model, images)]


def in_declared(model: onnx.ModelProto) -> tuple[Upscale, str]:
    """Return a function that upscales an image with a graph in its declared types, and what to call that.

    It raises `ArtifactError` where a number of the result is infinite or undefined.
    """
    run = _prepared(model)

    def upscale(image: Image) -> Image:
        levels, upscaled = run(image)
        if not np.isfinite(levels).all():
            raise ArtifactError("its results are infinite or undefined in the types that it declares")
        return upscaled

    return upscale, "its declared types"


def _runs(model: onnx.ModelProto, images: list[Image]) -> list[tuple[NDArray[np.float32], Image]]:
    run = _prepared(model)
    return [run(image) for image in images]


def _prepared(model: onnx.ModelProto) -> Callable[[Image], tuple[NDArray[np.float32], Image]]:
    clip = next(node for node in model.graph.node if node.name == _CLIP)
    copy = emulated(model)
    copy.graph.output.append(helper.make_tensor_value_info(clip.input[0], TensorProto.FLOAT, None))
    runner = Runner(copy.SerializeToString(), exactly=True)

    def run(image: Image) -> tuple[NDArray[np.float32], Image]:
        upscaled, levels = runner.run(image[None], [OUTPUT_NAME, clip.input[0]])
        return levels, np.asarray(upscaled[0], np.uint8)

    return run
