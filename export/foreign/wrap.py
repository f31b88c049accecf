"""Somebody else's graph between nodes of ours: uint8 images in and out, any size, clipped and rounded in the graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from overnet.export.foreign.convention import LUMA, RANGES, Convention
from overnet.export.foreign.read import ForeignFile
from overnet.export.graph.builder import GraphBuilder
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME, Artifact
from overnet.imaging.resample import NETWORK_SHARPNESS

# A mean over height and width, which runtimes replace by the whole image's when they upscale a tile.
MEAN = "GlobalAveragePool"


def wrapped(file: ForeignFile, convention: Convention, artifact: Artifact) -> onnx.ModelProto:
    """Return the FP32 graph with uint8 N x H x W x 3 RGB in and out, and the metadata of `artifact`."""
    graph = GraphBuilder()
    # TensorRT allows uint8 only at the graph's ends, next to a cast.
    levels = graph.node("Cast", [INPUT_NAME], "levels", to=TensorProto.FLOAT)
    planar = graph.node("Transpose", [levels], "planar", perm=[0, 3, 1, 2])
    x, luma = planar, ""
    if convention.channels == 1:
        luma = graph.node("Conv", [planar, _weight(graph, "luma.weight", LUMA)], "luma", kernel_shape=[1, 1])
        x = luma
    elif convention.colour == "bgr":
        x = _swapped(graph, planar, "planar.bgr")
    factor, offset = RANGES[convention.input_range]
    x = graph.scaled(x, factor, "planar") if factor != 1 else x
    x = _shifted(graph, x, offset, "planar.shifted")
    size = _sizes(graph, planar, convention)
    if size:
        x = graph.node("Pad", [x, size[0]], "planar.padded", mode="edge")

    inner = onnx.ModelProto()
    inner.CopyFrom(file.model)
    (theirs,) = [value.name for value in inner.graph.input]
    result = inner.graph.output[0].name
    for constant in inner.graph.initializer:
        graph.constants[constant.name] = constant
    for node in inner.graph.node:
        node.input[:] = [x if name == theirs else name for name in node.input]
        graph.nodes.append(node)
    result = x if result == theirs else result

    if size:
        # Only height and width are cut, so that the batch stays as it is.
        starts = graph.constant("kept.starts", np.zeros(2, np.int64))
        axes = graph.constant("kept.axes", np.array([2, 3], np.int64))
        result = graph.node("Slice", [result, starts, size[1], axes], "shuffled.kept")
    factor, offset = RANGES[convention.output_range]
    result = _shifted(graph, result, -offset, "added.shifted")
    result = graph.scaled(result, 1 / factor, "added") if factor != 1 else result
    if luma:
        colours = graph.node("Sub", [planar, luma], "base.colours")
        factors = graph.constant("base.factors", np.array([1, 1, *[convention.scale] * 2], np.float32))
        enlarged = graph.node(
            "Resize",
            [colours, "", factors],
            "base.resize",
            mode="cubic",
            cubic_coeff_a=NETWORK_SHARPNESS,
            coordinate_transformation_mode="half_pixel",
        )
        result = graph.node("Add", [enlarged, result], "added")
    elif convention.colour == "bgr":
        result = _swapped(graph, result, "shuffled.rgb")
    black, white = graph.constant("black", np.float32(0)), graph.constant("white", np.float32(255))
    clipped = graph.node("Clip", [result, black, white], "clipped")
    whole = graph.node("Round", [clipped], "rounded")
    interleaved = graph.node("Transpose", [whole], "interleaved", perm=[0, 2, 3, 1])
    graph.node("Cast", [interleaved], OUTPUT_NAME, to=TensorProto.UINT8)
    model = graph.finish(name=f"foreign_x{convention.scale}", image=INPUT_NAME, upscaled=OUTPUT_NAME, artifact=artifact)
    model.opset_import[0].version = file.opset
    onnx.checker.check_model(model)
    return model


def with_means_named(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> None:
    """Write every mean over height and width as the operator that tiles replace, where it keeps its four dimensions."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean":
            continue
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = settings.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        before = shapes.get(node.input[0], [])
        sides = sorted(axis % len(before) for axis in axes) if axes and before else []
        if len(before) == 4 and sides == [2, 3] and settings.get("keepdims", 1):
            del node.attribute[:], node.input[1:]
            node.op_type = MEAN
    # Engines take these as inputs, whose channels have to be known; not every graph states them.
    model.graph.value_info.extend(
        helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["batch", *shapes[node.output[0]][1:]])
        for node in model.graph.node
        if node.op_type == MEAN
    )


def without_means_named(model: onnx.ModelProto) -> None:
    """Write every mean over height and width as an operator that tiles do not replace."""
    opset = model.opset_import[0].version
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "mean.axes")
    means = [node for node in model.graph.node if node.op_type == MEAN]
    for node in means:
        node.op_type = "ReduceMean"
        node.attribute.append(helper.make_attribute("keepdims", 1))
        if opset < 18:
            node.attribute.append(helper.make_attribute("axes", [2, 3]))
        else:
            node.input.append(axes.name)
    if means and opset >= 18:
        model.graph.initializer.append(axes)


def _weight(graph: GraphBuilder, name: str, values: tuple[float, ...]) -> str:
    return graph.constant(name, np.asarray(values, np.float32).reshape(1, -1, 1, 1))


def _swapped(graph: GraphBuilder, x: str, name: str) -> str:
    """Add the exchange of red and blue."""
    order = graph.constant(f"{name}.order", np.array([2, 1, 0], np.int64))
    return graph.node("Gather", [x, order], name, axis=1)


def _shifted(graph: GraphBuilder, x: str, offset: float, name: str) -> str:
    if offset == 0:
        return x
    return graph.node("Add", [x, graph.constant(f"{name}.by", np.float32(offset))], name)


def _sizes(graph: GraphBuilder, planar: str, convention: Convention) -> tuple[str, str] | None:
    """Add what an image is padded by, and the size of the result without it; None where nothing is ever padded."""
    border = 2 * convention.border
    if convention.multiple == convention.smallest == 1 and convention.fixed is None and border == 0:
        return None
    whole = graph.node("Shape", [planar], "size.all")
    bounds = [graph.constant(f"size.{name}", np.array([value], np.int64)) for name, value in (("from", 2), ("to", 4))]
    size = graph.node("Slice", [whole, *bounds], "size")
    if convention.fixed is not None:
        padded = graph.constant("size.padded", np.array(convention.fixed, np.int64))
    else:
        multiple = convention.multiple
        more = graph.constant("size.more", np.array([multiple - 1 + border], np.int64))
        step = graph.constant("size.multiple", np.array([multiple], np.int64))
        least = -(-convention.smallest // multiple) * multiple
        counted = graph.node("Div", [graph.node("Add", [size, more], "size.raised"), step], "size.count")
        full = graph.node("Mul", [counted, step], "size.full")
        smallest = graph.constant("size.least", np.array([least], np.int64))
        # Opset 11 has no maximum of integers.
        is_larger = graph.node("Greater", [full, smallest], "size.is_larger")
        padded = graph.node("Where", [is_larger, full, smallest], "size.padded")
    missing = graph.node("Sub", [padded, size], "size.missing")
    before = np.array([0, 0, convention.border, convention.border, 0, 0], np.int64)
    if border:
        at_start = graph.constant("size.border", before[2:4])
        missing = graph.node("Sub", [missing, at_start], "size.missing_at_end")
    pads = graph.node("Concat", [graph.constant("size.before", before), missing], "size.pads", axis=0)
    factor = graph.constant("size.scale", np.array([convention.scale], np.int64))
    return pads, graph.node("Mul", [size, factor], "size.upscaled")
