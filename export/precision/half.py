"""The conversion of an FP32 graph to FP16 or BF16.

The number type of each node is written into the graph: TensorRT 11 has no flag for it, and 10.x follows the graph.
Convolutions and the nodes between them become FP16 or BF16, with casts where the types meet. In FP32 stay: the image
less its mean; the means over the image, which add up hundreds of thousands of numbers; the final addition to the
enlarged image, and the rounding to levels; and the nodes that are named, whose numbers exceed the smaller type's range.
"""

from collections.abc import Mapping, Set

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from overnet.export.graph.builder import rounded, with_nodes

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# The nodes before the first convolution, from the final addition to the end, and of sizes, which are integers.
_ENDS = ("levels", "planar", "centred", "base", "added", "shuffled", "clipped", "rounded", "interleaved", "size")
_BFLOAT16_BITS = 8


def to_half(
    model: onnx.ModelProto, precision: str, *, keep: Set[str] = frozenset(), types: Mapping[str, int] | None = None
) -> onnx.ModelProto:
    """Convert a graph to a smaller number type, except the nodes that must stay in FP32.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`; with or without quantised convolutions.
        precision: ``"fp16"`` or ``"bf16"``.
        keep: names of further nodes to compute in FP32.
        types: of every tensor that the graph computes, where not all of them are floating-point numbers.

    Returns:
        A new model, whose metadata still says fp32.

    Raises:
        ValueError: `precision` is neither.
        OverflowError: a weight is beyond the type's range. The message names it.
    """
    if precision not in ("fp16", "bf16"):
        raise ValueError(f"precision is {precision!r}; fp16 or bf16")
    return _Conversion(model, precision, keep, types or {}).run()


def must_stay(node: onnx.NodeProto) -> bool:
    """Return whether a node computes in FP32 in every precision."""
    return node.op_type == "GlobalAveragePool" or node.name.partition(".")[0] in _ENDS


class _Conversion:
    """The conversion of one graph: the type of each tensor, and the casts, so far."""

    def __init__(self, model: onnx.ModelProto, precision: str, keep: Set[str], types: Mapping[str, int]) -> None:
        self._model, self._half, self._keep, self._declared = model, TYPES[precision], keep, types
        self._suffixes: dict[int, str] = {TensorProto.FLOAT: "fp32", self._half: precision}
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        # Of what computing nodes return. A cast's result (levels as FP32) is not listed, and is FP32 unless declared.
        self._types: dict[str, int] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._converted: dict[str, onnx.TensorProto] = {}
        self._cast: set[str] = set()

    def run(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            result = onnx.NodeProto()
            result.CopyFrom(node)
            if node.op_type != "Cast":
                wanted = TensorProto.FLOAT if must_stay(node) or node.name in self._keep else self._half
                for place, name in enumerate(node.input):
                    if name:
                        # The factors of a resize are FP32 by definition, and sizes are integers.
                        is_factor = node.op_type == "Resize" and place > 0
                        result.input[place] = self._as(name, TensorProto.FLOAT if is_factor else wanted)
                for name in node.output:
                    declared = TensorProto.INT8 if node.op_type == "QuantizeLinear" else self._declared.get(name)
                    self._types[name] = wanted if declared in (None, TensorProto.FLOAT) else declared
            self._nodes.append(result)
        return with_nodes(self._model, self._nodes, self._converted.values())

    def _as(self, name: str, wanted: int) -> str:
        """Return the name of a tensor in a type, after adding a cast or a converted constant where it has another."""
        constant = self._constants.get(name)
        found = constant.data_type if constant is not None else self._types.get(name, self._declared.get(name))
        found = TensorProto.FLOAT if found is None else found
        # Integers (INT8 levels, indices) are not converted.
        if found == wanted or found not in self._suffixes:
            if constant is not None:
                self._converted[name] = constant
            return name
        output = f"{name}.{self._suffixes[wanted]}"
        if constant is not None:
            if output not in self._converted:
                self._converted[output] = _converted(constant, output, wanted)
        elif output not in self._cast:
            self._nodes.append(helper.make_node("Cast", [name], [output], name=output, to=wanted))
            self._cast.add(output)
        return output


def _converted(constant: onnx.TensorProto, name: str, wanted: int) -> onnx.TensorProto:
    value = numpy_helper.to_array(constant).astype(np.float32)
    if wanted == TensorProto.BFLOAT16:
        # The upper half of a float32, rounded.
        bits = rounded(value, _BFLOAT16_BITS).view(np.uint32) >> 16
        return helper.make_tensor(name, wanted, value.shape, bits.astype(np.uint16).tobytes(), raw=True)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.all(np.isfinite(half)):
        raise OverflowError(f"{constant.name} holds {np.abs(value).max():g}, beyond FP16")
    return numpy_helper.from_array(half, name)
