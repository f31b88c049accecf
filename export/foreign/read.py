"""Reading an ONNX file from elsewhere. It may be hostile: sizes are bounded, and code of others is never run.

The result is one flat FP32 graph in which every constant is an initializer and every name begins with ``net.``, so
that it can be put between nodes of ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, inliner, numpy_helper

from overnet.errors import ArtifactError, file_errors, one_line, printable

# Protobuf holds no larger file, and the largest published super-resolution networks have 200 MB.
LARGEST_BYTES = 1 << 31
# No tensor inside the graph may have more elements for an image of this size, height and width.
LARGEST_ELEMENTS = 1 << 28
CHECKED_SIDE = 64
_MOST_NODES = 50_000
_DEEPEST = 30
_OPSETS = range(11, 26)
_OWN_DOMAINS = ("", "ai.onnx")
# Control flow may run for ever, random results have no exact copy, and no image is made of texts and sequences.
_REFUSED = ("If", "Loop", "Scan", "Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "TfIdfVectorizer")
_REFUSED_BEGINNINGS = ("Sequence", "Optional", "String", "Random", "SplitToSequence", "ConcatFromSequence", "Image")
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
PREFIX = "net."


@dataclass(frozen=True)
class ForeignFile:
    """A file that was read.

    Attributes:
        path: of the file.
        sha256: of the file, and of the files with external data that it names.
        content: the whole model as it came, serialised, with the external data in it.
        model: the flat FP32 graph; its only input and output are float N x C x H x W.
        opset: version of ONNX's operators.
        shape: the input's declared N, C, H and W; None where one is free.
    """

    path: Path
    sha256: str
    content: bytes
    model: onnx.ModelProto
    opset: int
    shape: tuple[int | None, int | None, int | None, int | None]


def read_foreign(path: Path) -> ForeignFile:
    """Read a file.

    Raises:
        ArtifactError: it is damaged or too large, or has what cannot be converted; the message names the node.
    """
    name = printable(path)
    with file_errors(ArtifactError, path):
        if path.stat().st_size > LARGEST_BYTES:
            raise ArtifactError(f"{name}: larger than {LARGEST_BYTES >> 20} MiB")
        stored = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(stored)
    except DecodeError as error:
        raise ArtifactError(f"{name}: not an ONNX file, or a truncated one ({one_line(error)})") from error
    digest = hashlib.sha256(stored)
    try:
        _take_in_external_data(model, path.parent, digest)
        if model.functions:
            _check_functions(model)
            model = inliner.inline_local_functions(model)
        opset = _check_graph(model)
        content = model.SerializeToString()
        shape = _check_ends(model)
        _flatten(model)
        onnx.checker.check_model(model)
        _check_sizes(model, shape)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    except (ValueError, TypeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = one_line(error, line=0).replace(PREFIX, "")
        raise ArtifactError(f"{name}: a damaged ONNX graph ({reason})") from error
    return ForeignFile(path, digest.hexdigest(), content, model, opset, shape)


def title(node: onnx.NodeProto) -> str:
    """Return a node's name and operator for messages, with the name that it has in its own file."""
    name = node.name.removeprefix(PREFIX) or (node.output[0] if node.output else "")
    return f"the node {printable(name)[:80]} ({printable(node.op_type)[:40]})"


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _take_in_external_data(model: onnx.ModelProto, folder: Path, digest: hashlib._Hash) -> None:
    """Read the weights that lie in other files; these must be in the same folder, and are added to the hash."""
    total, contents = 0, dict[str, bytes]()
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            total += _bytes_of(tensor)
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        what = f"the tensor {printable(tensor.name)[:80]}"
        data = folder / location
        # A link could lead out of the folder, and a device never ends.
        if Path(location).name != location or location in ("", ".", "..") or data.is_symlink():
            raise ArtifactError(f"{what} lies in {printable(location)[:80]!r}, which is not a file in the same folder")
        if location not in contents:
            if not data.is_file():
                raise ArtifactError(f"{what} lies in {printable(location)[:80]!r}, which is not in the same folder")
            total += data.stat().st_size
            if total > LARGEST_BYTES:
                raise ArtifactError(f"its weights take more than {LARGEST_BYTES >> 20} MiB")
            contents[location] = data.read_bytes()
            digest.update(contents[location])
        start, length = int(entries.get("offset") or 0), _bytes_of(tensor)
        if start < 0 or start + length > len(contents[location]) or int(entries.get("length") or length) != length:
            raise ArtifactError(f"{what} lies outside of {printable(location)[:80]!r}: the file is damaged or another")
        tensor.raw_data = contents[location][start : start + length]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _bytes_of(tensor: onnx.TensorProto) -> int:
    if tensor.data_type not in TensorProto.DataType.values() or any(side < 0 for side in tensor.dims):
        raise ArtifactError(f"the tensor {printable(tensor.name)[:80]} is damaged")
    size = math.prod(tensor.dims) * max(1, helper.tensor_dtype_to_np_dtype(tensor.data_type or 1).itemsize)
    if size > LARGEST_BYTES:
        raise ArtifactError(f"the tensor {printable(tensor.name)[:80]} takes more than {LARGEST_BYTES >> 20} MiB")
    return int(size)


def _check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions of the model's own that call themselves, or become too many nodes when they are written out."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def count(key: tuple[str, str], depth: int) -> int:
        if key not in functions:
            return 1
        if depth > _DEEPEST:
            raise ArtifactError(f"its function {printable(key[1])[:40]} calls itself, or too many others")
        if key not in counted:
            counted[key] = sum(count((node.domain, node.op_type), depth + 1) for node in functions[key].node)
        return counted[key]

    if sum(count((node.domain, node.op_type), 0) for node in model.graph.node) > _MOST_NODES:
        raise ArtifactError(f"a graph of more than {_MOST_NODES:,} nodes")


def _check_graph(model: onnx.ModelProto) -> int:
    """Refuse what is not ONNX's own, or cannot be converted; return the opset."""
    versions = [entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS]
    opset = int(versions[0]) if len(versions) == 1 else 0
    if opset not in _OPSETS:
        raise ArtifactError(
            f"opset {opset} is not supported, and {_OPSETS.start} to {_OPSETS.stop - 1} are: export it again"
        )
    graph = model.graph
    if len(graph.node) > _MOST_NODES:
        raise ArtifactError(f"a graph of more than {_MOST_NODES:,} nodes")
    if graph.sparse_initializer:
        raise ArtifactError("sparse weights are not supported")
    for node in graph.node:
        if node.domain not in _OWN_DOMAINS:
            raise ArtifactError(f"{title(node)} is a custom operator of {printable(node.domain)[:80]}: not supported")
        if not onnx.defs.has(node.op_type, opset):
            raise ArtifactError(f"{title(node)} is no operator of ONNX's opset {opset}")
        has_graph = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if node.op_type in _REFUSED or node.op_type.startswith(_REFUSED_BEGINNINGS) or has_graph:
            raise ArtifactError(
                f"{title(node)} has a branch, a loop, a sequence or random numbers: export the network without them"
            )
    return opset


def _check_ends(model: onnx.ModelProto) -> tuple[int | None, int | None, int | None, int | None]:
    """Refuse inputs and outputs that are not one image each; return the input's shape."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for kind, values in (("inputs", inputs), ("outputs", model.graph.output)):
        if len(values) != 1:
            named = ", ".join(printable(value.name)[:40] for value in values[:6])
            raise ArtifactError(f"it has {len(values)} {kind} ({named}), and one image in and one out are supported")
    kinds = [value.type.tensor_type.elem_type for value in (inputs[0], model.graph.output[0])]
    for end, kind in zip(("input", "output"), kinds, strict=True):
        # Some files do not state the type of the output.
        if kind not in (TensorProto.FLOAT, *HALVES) and (end == "input" or kind):
            name = TensorProto.DataType.Name(kind) if kind else "no tensor"
            raise ArtifactError(f"its {end} is {name}, and FLOAT or FLOAT16, N x 3 or 1 x H x W, are supported")
    tensor = inputs[0].type.tensor_type
    sides = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    shape = " x ".join("?" if side is None else str(side) for side in sides) or "of no stated shape"
    if len(sides) == 5 or (len(sides) == 4 and sides[1] not in (None, 1, 3, 4) and (sides[1] or 0) % 3 == 0):
        raise ArtifactError(f"its input is {shape}: several frames at once are not supported")
    is_last = len(sides) == 4 and sides[1] not in (1, 3) and sides[3] in (1, 3)
    if len(sides) != 4 or sides[1] not in (None, 1, 3) or is_last:
        hint = ": export it with N x 3 x H x W" if is_last else ""
        raise ArtifactError(f"its input is {shape}, and N x 3 or N x 1 x height x width are supported{hint}")
    if sides[0] not in (None, 1):
        raise ArtifactError(f"its input is {shape}: {sides[0]} images at once are not supported")
    if any(side is not None and side > 16384 for side in sides):
        raise ArtifactError(f"its input is {shape}, which is too large")
    return sides[0], sides[1], sides[2], sides[3]


def _flatten(model: onnx.ModelProto) -> None:
    """Turn constants into initializers, half types into FP32, and give everything a name of its own."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant":
            constant = _constant(node)
            constant.name = node.output[0]
            graph.initializer.append(constant)
        else:
            nodes.append(node)
    constants = [_single(constant) for constant in graph.initializer]
    for constant in constants:
        if constant.data_type == TensorProto.FLOAT and np.isnan(numpy_helper.to_array(constant)).any():
            raise ArtifactError(f"the tensor {printable(constant.name)[:80]} holds undefined numbers")
    names: set[str] = set()
    for index, node in enumerate(nodes):
        name = f"{PREFIX}{node.name or f'{node.op_type}_{index}'}"
        node.name = name if name not in names else f"{name}_{index}"
        names.add(node.name)
        node.domain, node.doc_string = "", ""
        node.input[:] = [each and PREFIX + each for each in node.input]
        node.output[:] = [each and PREFIX + each for each in node.output]
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                attribute.t.CopyFrom(_single(attribute.t))
    initial = {constant.name for constant in constants}
    inputs = [value for value in graph.input if value.name not in initial]
    for value in (*inputs, *graph.output):
        sides = [side.dim_value or None for side in value.type.tensor_type.shape.dim] or [None] * 4
        value.CopyFrom(helper.make_tensor_value_info(PREFIX + value.name, TensorProto.FLOAT, sides))
    for constant in constants:
        constant.name = PREFIX + constant.name
    flat = helper.make_graph(nodes, "net", inputs, list(graph.output), constants)
    del model.metadata_props[:]
    graph.CopyFrom(flat)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        constant = onnx.TensorProto()
        constant.CopyFrom(value)
        return constant
    if attribute.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise ArtifactError(f"{title(node)} is {printable(attribute.name)[:40]}, and no number")
    kind = np.float32 if "float" in attribute.name else np.int64
    made: onnx.TensorProto = numpy_helper.from_array(np.asarray(value, kind))
    return made


def _single(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor in FP32 where it is in FP16 or BF16; others as they are."""
    if tensor.data_type not in HALVES:
        return tensor
    values = np.asarray(numpy_helper.to_array(tensor), np.float32)
    single: onnx.TensorProto = numpy_helper.from_array(values, tensor.name)
    return single


def _check_sizes(model: onnx.ModelProto, shape: tuple[int | None, int | None, int | None, int | None]) -> None:
    """Refuse a graph in which a tensor is known to be far too large for a small image: memory would run out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sides = (1, shape[1] or 3, shape[2] or CHECKED_SIDE, shape[3] or CHECKED_SIDE)
    for dimension, value in zip(copy.graph.input[0].type.tensor_type.shape.dim, sides, strict=True):
        dimension.dim_value = value
    for dimension in copy.graph.output[0].type.tensor_type.shape.dim:
        dimension.Clear()
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (RuntimeError, ValueError):
        return  # running the network says what is wrong with it
    makers = {output: node for node in model.graph.node for output in node.output}
    scaled = max(1, sides[2] * sides[3] // CHECKED_SIDE**2)
    for value in inferred.value_info:
        elements = math.prod(max(1, d.dim_value) for d in value.type.tensor_type.shape.dim)
        if elements > LARGEST_ELEMENTS * scaled and value.name in makers:
            raise ArtifactError(f"{title(makers[value.name])} makes {elements:,} numbers of a small image")
