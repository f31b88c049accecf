"""Variants of an exported ONNX file for tiles: some output the means over the image, some have them as inputs.

Needs onnx, which the extra ``ort`` installs.
"""

from pathlib import Path
from typing import Any

from overnet.errors import require

_MEAN = "GlobalAveragePool"
# Suffix for the name of a computed mean where a given mean has the name itself.
_COMPUTED = "_computed"


def up_to_means(path: Path, *, given: bool = False) -> bytes:
    """Return the graph that computes only the means: one output for each, in the network's order.

    With `given`, the means that later layers use are further inputs, as in `with_given_means`.
    """
    onnx, model = _load(path)
    graph = model.graph
    means = [node for node in graph.node if node.op_type == _MEAN]
    names = [node.output[0] for node in means]
    if given:
        graph.input.extend(_value(onnx, name) for name in names)
        for node in means:
            node.output[0] += _COMPUTED
        names = [name + _COMPUTED for name in names]
    del graph.output[:]
    graph.output.extend(_value(onnx, name) for name in names)
    # Nodes after the last mean contribute to the image only; runtimes skip nodes that no output needs.
    content: bytes = model.SerializeToString()
    return content


def with_given_means(path: Path) -> bytes:
    """Return the graph whose means are further inputs, after the image and in the network's order."""
    onnx, model = _load(path)
    graph = model.graph
    means = [node for node in graph.node if node.op_type == _MEAN]
    graph.input.extend(_value(onnx, node.output[0]) for node in means)
    for node in means:
        graph.node.remove(node)
    content: bytes = model.SerializeToString()
    return content


def _load(path: Path) -> tuple[Any, Any]:
    onnx = require("onnx", extra="ort", purpose="cutting an image into tiles with the backend onnxruntime")
    return onnx, onnx.load(path)


def _value(onnx: Any, name: str) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", None, 1, 1])
