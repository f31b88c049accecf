"""Which number type each step computes in, decided in the graph: TensorRT 11 has no flag for it, and 10.x keeps to it.

The graph is written in FP32. Here its convolutions and what lies between them become FP16 or BF16, with casts where the
types meet. In FP32 stay: the image less its mean; the means over the image, which add up hundreds of thousands of
numbers; the final addition to the enlarged image, and the rounding to levels; and steps that are named, because
their numbers leave the range of the smaller type.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from overnet.export.graph.builder import rounded

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# From the image to where convolutions begin, and from the final addition to the end.
_ENDS = ("levels", "planar", "centred", "base", "added", "shuffled", "clipped", "rounded", "interleaved")
# Steps whose result has a type of its own.
_TYPED_BY_THEMSELVES = ("Cast",)
_BFLOAT16_BITS = 8


def to_half(model: onnx.ModelProto, precision: str, *, keep: Set[str] = frozenset()) -> onnx.ModelProto:
    """Convert a graph to a smaller number type, but for what must stay.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`; with or without quantised convolutions.
        precision: ``"fp16"`` or ``"bf16"``.
        keep: names of further nodes to compute in FP32.

    Returns:
        A new model whose metadata still says fp32: see `overnet.export.graph.network_graph`.

    Raises:
        ValueError: `precision` is another.
        OverflowError: a weight is beyond the type's range, with the node's name.
    """
    if precision not in ("fp16", "bf16"):
        raise ValueError(f"precision is {precision!r}; fp16 or bf16")
    return _Conversion(model, TYPES[precision], keep).run()


def must_stay(node: onnx.NodeProto) -> bool:
    """Whether a node computes in FP32 in every precision."""
    return node.op_type == "GlobalAveragePool" or node.name.partition(".")[0] in _ENDS


class _Conversion:
    """One graph's conversion: which type each tensor has by now, and the casts made so far."""

    def __init__(self, model: onnx.ModelProto, half: int, keep: Set[str]) -> None:
        self._model, self._half, self._keep = model, half, keep
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self._types: dict[str, int] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._converted: dict[str, onnx.TensorProto] = {}
        self._cast: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            self._add(node)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        del copy.graph.node[:], copy.graph.initializer[:]
        copy.graph.node.extend(self._nodes)
        copy.graph.initializer.extend(self._converted.values())
        return copy

    def _add(self, node: onnx.NodeProto) -> None:
        wanted = TensorProto.FLOAT if must_stay(node) or node.name in self._keep else self._half
        result = onnx.NodeProto()
        result.CopyFrom(node)
        if node.op_type in _TYPED_BY_THEMSELVES:
            self._types[node.output[0]] = TensorProto.UNDEFINED
        else:
            for place, name in enumerate(node.input):
                if name:
                    # The factors of a resize are FP32 by definition.
                    factors = node.op_type == "Resize" and place > 0
                    result.input[place] = self._as(name, TensorProto.FLOAT if factors else wanted)
            self._types[node.output[0]] = self._result_type(node, wanted)
        self._nodes.append(result)

    def _result_type(self, node: onnx.NodeProto, wanted: int) -> int:
        if node.op_type == "QuantizeLinear":
            return int(TensorProto.INT8)
        return wanted

    def _as(self, name: str, wanted: int) -> str:
        """The name of this tensor in the wanted type, with a cast added where it has another."""
        if name in self._constants:
            return self._constant(name, wanted)
        found = self._types.get(name, TensorProto.UNDEFINED)
        # What is no floating-point number (levels as INT8) is what it is.
        if found in (wanted, TensorProto.INT8):
            return name
        if found == TensorProto.UNDEFINED:
            found = TensorProto.FLOAT
            if wanted == found:
                return name
        if (name, wanted) not in self._cast:
            suffix = next(key for key, value in TYPES.items() if value == wanted)
            output = f"{name}.{suffix}"
            self._nodes.append(helper.make_node("Cast", [name], [output], name=output, to=wanted))
            self._cast[name, wanted] = output
        return self._cast[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        constant = self._constants[name]
        if constant.data_type != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
            self._converted[name] = constant
            return name
        suffix = next(key for key, value in TYPES.items() if value == wanted)
        output = f"{name}.{suffix}"
        if output not in self._converted:
            self._converted[output] = _converted(constant, output, wanted)
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
