"""Which steps of a graph compute with numbers that FP16 cannot hold, or nearly not."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from overnet.export.evaluator import visit_tensors

# FP16's largest number, and how much room is left under it: pictures that were not looked at may reach further.
LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 4.0


def nodes_beyond_half(model: onnx.ModelProto, pictures: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Find the nodes that have to stay in FP32 because their numbers, in or out, come near FP16's largest.

    Parameters
    ----------
    model : in FP32, from `overnet.export.onnx_export.build_onnx`; with or without quantised convolutions.
    pictures : H x W x 3 uint8 each, to take the numbers from.

    Returns
    -------
    The largest magnitude met at each such node.
    """
    largest: dict[str, float] = {
        constant.name: float(np.abs(numpy_helper.to_array(constant)).max(initial=0))
        for constant in model.graph.initializer
        if constant.data_type == TensorProto.FLOAT
    }
    for picture in pictures:
        for node, result in visit_tensors(model, picture[None]):
            if result.is_floating_point():
                name = node.output[0]
                largest[name] = max(largest.get(name, 0.0), float(result.abs().max()))
    # A weight is a known number and needs no headroom.
    weights = {constant.name for constant in model.graph.initializer}
    limits = {name: LARGEST_HALF / (1 if name in weights else HEADROOM) for name in largest}
    beyond = {}
    for node in model.graph.node:
        found = [
            largest[name] for name in (*node.input, *node.output) if largest.get(name, 0) > limits.get(name, np.inf)
        ]
        if found:
            beyond[node.name] = max(found)
    return beyond
