"""The graph that engines are built from: an ONNX file's graph, with its means over the image as input and output.

A tile must be upscaled with the means of the image it was cut from, or its colours differ. An engine cannot be changed
later, so one engine serves whole images, tiles, and the measuring of their means.
"""

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from overnet.errors import ArtifactError
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, MEANS_NAME, USE_GIVEN_MEANS_NAME

_MEAN = "GlobalAveragePool"
_UNSIGNED_PER_SIGNED = 255 / 127


def with_means(onnx_model: bytes) -> bytes:
    """Add the means over the image to a graph's inputs and outputs.

    All means are one tensor, concatenated along the channels in the graph's order. `MEANS_NAME` are those of the image;
    `GIVEN_MEANS_NAME` replaces them where `USE_GIVEN_MEANS_NAME`, one number, is not 0.

    Args:
        onnx_model: a serialised graph from `overnet.export`, in any precision. Its INT8 levels get signs, which
            TensorRT requires. A graph without means is otherwise returned unchanged.

    Returns:
        The graph, serialised. Without given means, its results are the same as before.

    Raises:
        ArtifactError: the file is not a complete ONNX graph.
    """
    model = _with_signs(onnx_model)
    if all(node.op_type != _MEAN for node in model.graph.node):
        return bytes(model.SerializeToString())
    total = _make_replaceable(model)
    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.input.extend(
        (
            # The same name as the images' batch dimension tells a builder that they are equal.
            helper.make_tensor_value_info(GIVEN_MEANS_NAME, TensorProto.FLOAT, [batch, total, 1, 1]),
            # A number instead of a boolean: every version of TensorRT takes FP32 as an input.
            helper.make_tensor_value_info(USE_GIVEN_MEANS_NAME, TensorProto.FLOAT, [1, 1, 1, 1]),
        )
    )
    graph.output.append(helper.make_tensor_value_info(MEANS_NAME, TensorProto.FLOAT, [batch, total, 1, 1]))
    result: bytes = model.SerializeToString()
    return result


def with_signs(onnx_model: bytes) -> bytes:
    """Return a graph whose INT8 levels have signs, which TensorRT requires; it is otherwise unchanged.

    Args:
        onnx_model: see `with_means`.

    Raises:
        ArtifactError: see `with_means`.
    """
    return bytes(_with_signs(onnx_model).SerializeToString())


def _with_signs(onnx_model: bytes) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(onnx_model)
    except DecodeError as error:
        raise ArtifactError(f"not a complete ONNX graph ({error})") from error
    _add_signs(model)
    return model


def _add_signs(model: onnx.ModelProto) -> None:
    """Make the levels of all activations INT8: TensorRT takes no UINT8. Their ranges stay, and the steps double."""
    quantizing = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    constants = {each.name: each for each in model.graph.initializer}
    for node in quantizing:
        step, zero = (constants[name] for name in node.input[1:3])
        if zero.data_type == TensorProto.UINT8:
            zero.CopyFrom(numpy_helper.from_array(np.int8(0), zero.name))
            old = numpy_helper.to_array(step)
            # Up to the next number, so that the largest value is not clipped.
            new = np.nextafter(
                (old.astype(np.float32) * _UNSIGNED_PER_SIGNED).astype(old.dtype), old.dtype.type(np.inf)
            )
            step.CopyFrom(numpy_helper.from_array(new, step.name))


def _make_replaceable(model: onnx.ModelProto) -> int:
    """Add a choice after every mean, and the concatenated means. Return their number of channels."""
    graph = model.graph
    means = {node.output[0] for node in graph.node if node.op_type == _MEAN}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    channels = {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in inferred if value.name in means}
    nodes = [helper.make_node("Cast", [USE_GIVEN_MEANS_NAME], ["use_given"], name="use_given", to=TensorProto.BOOL)]
    graph.initializer.append(_whole("given.axis", 1))
    chosen: dict[str, str] = {}
    start = 0
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = chosen.get(name, name)
        nodes.append(node)
        if node.op_type == _MEAN:
            mean = node.output[0]
            given, used = f"{mean}.given", f"{mean}.used"
            stop = start + channels[mean]
            bounds = [_whole(f"{given}.start", start), _whole(f"{given}.stop", stop)]
            graph.initializer.extend(bounds)
            inputs = [GIVEN_MEANS_NAME, *(bound.name for bound in bounds), "given.axis"]
            nodes.append(helper.make_node("Slice", inputs, [given], name=given))
            nodes.append(helper.make_node("Where", ["use_given", given, mean], [used], name=used))
            chosen[mean] = used
            start = stop
    nodes.append(helper.make_node("Concat", list(chosen), [MEANS_NAME], name=MEANS_NAME, axis=1))
    # Nodes cannot be inserted between others, so the list is built anew.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return start


def _whole(name: str, value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value], np.int64), name)
