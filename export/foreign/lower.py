"""A wrapped graph in another precision, measured in ONNX Runtime: any operator may be in it."""

import math
from dataclasses import replace

import onnx
from onnx import helper, numpy_helper, version_converter

from overnet.errors import InputError, one_line, require
from overnet.export.foreign.declared import levels_declared, upscaled_declared
from overnet.export.foreign.read import PREFIX
from overnet.export.foreign.tensors import FLOAT, from_image, largest_magnitudes, tensor_shapes, tensor_types
from overnet.export.foreign.wrap import MEAN
from overnet.export.graph.builder import OPSET
from overnet.export.graph.costs import Costs, costs_of
from overnet.export.options import CalibrationOptions
from overnet.export.precision.convert import LoweredGraph, beyond_notes
from overnet.export.precision.fp16_range import nodes_beyond_half
from overnet.export.precision.half import must_stay, to_half
from overnet.files.onnx_metadata import Artifact
from overnet.types import Image, Progress

# Height and width of the image that costs are counted for.
_SIDE = 64
# Sums over many numbers, and what is divided by their small results, keep FP32 in every precision.
_SUMS = (
    *(MEAN, "GlobalMaxPool", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("LpNormalization", "MeanVarianceNormalization", "BatchNormalization", "CumSum", "Softmax", "LogSoftmax"),
    *("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
    *("Pow", "Sqrt", "Exp", "Log", "Reciprocal", "GridSample"),
)
# What rearranges numbers, and does not change them.
_MOVES = ("Expand", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Tile")
# Half the smallest number of FP16: what is smaller is rounded to 0.
_SMALLEST_HALF = 2.0**-25
# Opset from which quantised numbers may have FP16 steps.
_INT8_OPSET = 19


def lower_foreign(
    exact: onnx.ModelProto,
    artifact: Artifact,
    precision: str,
    images: list[Image],
    calibration: CalibrationOptions,
    progress: Progress,
) -> LoweredGraph:
    """Convert a wrapped graph to a precision.

    Args:
        exact: in FP32, from `overnet.export.foreign.wrap.wrapped`.
        artifact: its metadata.
        precision: one of `overnet.files.onnx_metadata.PRECISIONS`.
        images: H x W x 3 uint8 each: nodes whose numbers on them come near FP16's largest stay in FP32.
        calibration: for INT8.

    Raises:
        InputError: no layer can be INT8 within the allowed loss, or the graph is in an opset that INT8 is not in.
    """
    foreign = artifact.foreign
    assert foreign is not None
    costs = costs_of_foreign(exact, artifact)
    artifact = replace(
        artifact,
        precision=precision,
        activation_bytes=math.ceil(costs.activation_bytes_per_pixel),
        foreign=replace(foreign, multiply_accumulates=round(costs.multiply_accumulates_per_pixel, 1)),
    )
    model, notes = exact, list[str]()
    if precision == "int8":
        exact = _with_opset(exact)
        model, notes = _quantized(exact, artifact, images, calibration, progress)
    elif precision != "fp32":
        model, notes = _halved(exact, precision, images)
    helper.set_model_props(model, artifact.to_metadata())
    if precision != "bf16":
        # The checker knows convolutions in BF16 only from opset 22 on, which TensorRT 10.3 does not read.
        onnx.checker.check_model(model)
    return LoweredGraph(model, model.SerializeToString(), exact, artifact, tuple(notes), costs)


def costs_of_foreign(model: onnx.ModelProto, artifact: Artifact) -> Costs:
    """Count the costs of a wrapped FP32 graph."""
    height, width = (artifact.foreign and artifact.foreign.largest) or (_SIDE, _SIDE)
    return costs_of(model, tensor_shapes(model, height, width), tensor_types(model), height * width)


def _staying(exact: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes that compute in FP32 in every precision."""
    types = tensor_types(exact)
    changing = from_image(exact)
    square_roots = {name for node in exact.graph.node if node.op_type == "Sqrt" for name in node.input}
    return {
        node.name
        for node in exact.graph.node
        if must_stay(node)
        or node.op_type in _SUMS
        # A small number is added before the root is taken, which FP16 may round to zero.
        or any(name in square_roots for name in node.output)
        # What is computed of the image's size alone, such as the factors of a resize.
        or not any(name in changing and types.get(name) == FLOAT for name in node.output)
    } | _guarded_divisions(exact)


def _guarded_divisions(exact: onnx.ModelProto) -> set[str]:
    """Return the names of divisions by what a small number keeps above 0, and of the nodes between.

    FP16 rounds such a number to 0, as the 1e-12 by which PyTorch normalises, and a dark image would be divided by it.
    """
    rounded_to_zero = {
        constant.name
        for constant in exact.graph.initializer
        if constant.data_type == FLOAT and 0 < abs(numpy_helper.to_array(constant)).max(initial=0) < _SMALLEST_HALF
    }
    guarded, found = set[str](), set[str]()
    for node in exact.graph.node:
        begins = node.op_type in ("Add", "Clip", "Max") and any(name in rounded_to_zero for name in node.input)
        goes_on = node.op_type in _MOVES and node.input[0] in guarded
        divides = node.op_type in ("Div", "Reciprocal") and node.input[-1] in guarded
        if begins or goes_on or divides:
            found.add(node.name)
        if begins or goes_on:
            guarded.update(node.output)
    return found


def _halved(exact: onnx.ModelProto, precision: str, images: list[Image]) -> tuple[onnx.ModelProto, list[str]]:
    keep = _staying(exact)
    beyond = nodes_beyond_half(exact, images, largest_magnitudes) if precision == "fp16" else {}
    named = {name.removeprefix(PREFIX): largest for name, largest in beyond.items() if name not in keep}
    return to_half(exact, precision, keep=keep | beyond.keys(), types=tensor_types(exact)), beyond_notes(named)


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in an opset that has INT8 with steps in FP16."""
    if model.opset_import[0].version >= _INT8_OPSET:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
        # The types of FP32, which the graph has no more when it is converted.
        del converted.graph.value_info[:]
        converted.graph.value_info.extend(model.graph.value_info)
        return converted
    except Exception as error:  # the converter's own types
        raise InputError(
            f"int8 needs opset {_INT8_OPSET}, and this file has {model.opset_import[0].version}, which cannot be "
            f"converted ({one_line(error)}): export it with a later opset, or use fp16"
        ) from error


def _quantized(
    exact: onnx.ModelProto, artifact: Artifact, images: list[Image], calibration: CalibrationOptions, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    require("torch", extra="export", purpose="choosing the layers for INT8")
    from overnet.export.precision.calibration import calibration_images, pairs_of
    from overnet.export.precision.layer_choice import Arithmetic, choose_layers
    from overnet.imaging.sample_images import synthetic_frames

    progress("calibrating", 0, 0)
    scale = int(artifact.scale)
    photographs, remarks = calibration_images(calibration.folder)
    largest_size = artifact.foreign.largest if artifact.foreign else None
    if largest_size is not None:
        photographs = [image[: largest_size[0] * scale, : largest_size[1] * scale] for image in photographs]
    pairs = pairs_of(photographs, scale)
    ranges = [*(pair.low for pair in pairs), *synthetic_frames()]
    if largest_size is not None:
        ranges = [image[: largest_size[0], : largest_size[1]] for image in ranges]
    keep = _staying(exact)
    beyond = nodes_beyond_half(exact, images, largest_magnitudes)

    def lower(quantized: onnx.ModelProto) -> onnx.ModelProto:
        return to_half(quantized, "fp16", keep=keep | beyond.keys(), types=tensor_types(quantized))

    arithmetic = Arithmetic(
        _candidates(exact, largest_size or (_SIDE, _SIDE)),
        costs_of_foreign(exact, artifact).by_layer,
        lower,
        upscaled_declared,
        levels_declared,
    )
    if not arithmetic.candidates:
        raise InputError("no layer can be INT8: the network has no convolutions with weights; use fp16")
    choice = choose_layers(
        exact,
        largest_magnitudes(exact, ranges),
        pairs,
        scale,
        max_loss_db=calibration.max_loss_db,
        keep=frozenset(beyond),
        progress=progress,
        arithmetic=arithmetic,
    )
    return lower(choice.model), [*choice.notes(len(pairs), prefix=PREFIX), *remarks]


def _candidates(exact: onnx.ModelProto, size: tuple[int, int]) -> list[str]:
    """Return the convolutions that can be quantised: not the first, those on means, or those of single channels."""
    shapes = tensor_shapes(exact, *size)
    weights = {constant.name: constant for constant in exact.graph.initializer}
    found = []
    for node in exact.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" and node.name.startswith(PREFIX) else None
        if weight is None or len(weight.dims) != 4:
            continue
        on_means = math.prod(shapes[node.output[0]][2:]) == 1
        # A convolution of each channel alone costs little, and is sensitive.
        if not on_means and weight.dims[1] > 1:
            found.append(node.name)
    return found[1:]
