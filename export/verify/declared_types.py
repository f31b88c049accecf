"""Running a graph node by node in exactly the number types that it declares.

Runtimes on a CPU do not show the error of a lower precision: they compute FP16 graphs in FP32, and some INT8 ones with
saturation. Here every tensor is rounded to its declared type. A convolution adds up in FP32 and rounds its result, as
tensor cores do. Only the operators that OverNet's graphs have are implemented, with PyTorch, as ONNX defines them.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.resample import NETWORK_SHARPNESS

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT64: torch.int64,
}


def visit_tensors(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Iterator[tuple[onnx.NodeProto, Tensor]]:
    """Run a graph in the types that it declares, and yield each node with its result, in order.

    A tensor is freed after its last use.

    Args:
        model: a graph from `overnet.export.graph.network_graph.build_onnx`, in any precision.
        images: N x H x W x 3 uint8.

    Raises:
        NotImplementedError: the graph has an operator, or a form of one, that OverNet's graphs do not have.
    """
    graph = model.graph
    known = {constant.name: _constant(constant) for constant in graph.initializer}
    known[graph.input[0].name] = torch.from_numpy(np.ascontiguousarray(images))
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    for index, node in enumerate(graph.node):
        if node.op_type not in _OPERATORS:
            raise NotImplementedError(f"{node.name}: the operator {node.op_type}")
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        with torch.inference_mode():
            result = _OPERATORS[node.op_type](*[known[name] if name else None for name in node.input], **attributes)
        known[node.output[0]] = result
        for name in node.input:
            if last_use[name] == index:
                known.pop(name, None)
        yield node, result


def run_exactly(
    model: onnx.ModelProto, images: NDArray[np.uint8], names: Iterable[str] | None = (OUTPUT_NAME,)
) -> dict[str, NDArray[Any]]:
    """Run a graph in the types that it declares.

    Args:
        model, images: see `visit_tensors`.
        names: the tensors to return; None for all.

    Returns:
        The tensors by name; floating-point ones as float32, which holds every value of the smaller types.
    """
    wanted = None if names is None else set(names)
    return {
        node.output[0]: (result.float() if result.is_floating_point() else result).numpy()
        for node, result in visit_tensors(model, images)
        if wanted is None or node.output[0] in wanted
    }


def _constant(constant: onnx.TensorProto) -> Tensor:
    if constant.data_type == TensorProto.BFLOAT16:
        bits = np.frombuffer(constant.raw_data, np.int16).reshape(list(constant.dims)).copy()
        return torch.from_numpy(bits).view(torch.bfloat16)
    return torch.from_numpy(numpy_helper.to_array(constant).copy())


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: list[int],
    kernel_shape: list[int],
    group: int = 1,
) -> Tensor:
    above, left, below, right = pads
    if (above, left) != (below, right) or list(weight.shape[2:]) != list(kernel_shape):
        raise NotImplementedError("a convolution with unequal pads, or whose weight has another shape than it declares")
    result = functional.conv2d(
        x.float(), weight.float(), None if bias is None else bias.float(), padding=(above, left), groups=group
    )
    return result.to(x.dtype)


def _resize(
    x: Tensor, region: Tensor | None, factors: Tensor | None, sizes: Tensor | None = None, **attributes: Any
) -> Tensor:
    mode, sharpness = attributes.get("mode"), attributes.get("cubic_coeff_a")
    if (mode, sharpness) != (b"cubic", NETWORK_SHARPNESS) or region is not None:
        raise NotImplementedError(f"a resize of mode {mode!r} and sharpness {sharpness}")
    if factors is not None:
        size = [int(side * factor) for side, factor in zip(x.shape[2:], factors.tolist()[2:], strict=True)]
    else:
        assert sizes is not None
        size = sizes.tolist()[2:]
    return functional.interpolate(x.float(), size, mode="bicubic", align_corners=False).to(x.dtype)


def _slice(x: Tensor, start: Tensor, stop: Tensor, axis: Tensor) -> Tensor:
    index = [slice(None)] * x.ndim
    index[int(axis)] = slice(int(start), None if int(stop) > x.shape[int(axis)] else int(stop))
    return x[tuple(index)]


def _pad(x: Tensor, pads: Tensor, *rest: Tensor | None, mode: bytes = b"constant") -> Tensor:
    _, _, above, left, _, _, below, right = pads.tolist()
    if mode != b"edge" or rest:
        raise NotImplementedError(f"padding of mode {mode!r}")
    return functional.pad(x.float(), [left, right, above, below], mode="replicate").to(x.dtype)


def _depth_to_space(x: Tensor, *, blocksize: int, mode: bytes) -> Tensor:
    if mode == b"DCR":
        # Phases first, and then channels: the other way round than PyTorch.
        x = x.reshape(len(x), blocksize**2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
    return functional.pixel_shuffle(x, blocksize)


def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, axis: int = 1) -> Tensor:
    levels = torch.round(x.float() / _along(scale, axis, x.ndim).float())
    limits = torch.iinfo(zero_point.dtype)
    return (levels + _along(zero_point, axis, x.ndim).float()).clamp(limits.min, limits.max).to(zero_point.dtype)


def _dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, axis: int = 1) -> Tensor:
    levels = x.float() - _along(zero_point, axis, x.ndim).float()
    return (levels * _along(scale, axis, x.ndim).float()).to(scale.dtype)


def _along(values: Tensor, axis: int, dimensions: int) -> Tensor:
    """Reshape the values along one axis to broadcast with a tensor; a single number stays as it is."""
    if values.ndim == 0:
        return values
    return values.reshape([-1 if place == axis else 1 for place in range(dimensions)])


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Cast": lambda x, *, to: x.to(_TYPES[to]),
    "Clip": torch.clamp,
    "Concat": lambda *parts, axis: torch.cat(parts, dim=axis),
    "Conv": _convolution,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "GlobalAveragePool": lambda x: x.float().mean(dim=(2, 3), keepdim=True).to(x.dtype),
    "Div": partial(torch.div, rounding_mode="floor"),
    "Mul": torch.mul,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Relu": torch.relu,
    "Resize": _resize,
    "Round": torch.round,
    "Shape": lambda x, *, start, end: torch.tensor(x.shape[start:end]),
    "Sigmoid": lambda x: torch.sigmoid(x.float()).to(x.dtype),
    "Slice": _slice,
    "Sub": torch.sub,
    "Transpose": lambda x, *, perm: x.permute(perm),
}
