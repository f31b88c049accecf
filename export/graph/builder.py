"""An ONNX graph under construction, a thin layer over ``onnx.helper``. All nodes have readable names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from overnet.files.onnx_metadata import Artifact

if TYPE_CHECKING:
    from overnet.network.deploy import Convolution

# The newest that TensorRT 10.3 reads.
OPSET = 20
# The version of ONNX 1.16; older runtimes refuse files with a newer one.
IR_VERSION = 10


class GraphBuilder:
    """The nodes and constants of a graph. Every method that adds a node returns the name of the node's output.

    Args:
        significant_bits: bits kept of each float32 weight, at most 24, which is all; with fewer, files compress better.
    """

    def __init__(self, *, significant_bits: int = 24) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.significant_bits = significant_bits

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant. Floating-point numbers are stored as float32."""
        if np.issubdtype(value.dtype, np.floating):
            value = rounded(value.astype(np.float32), self.significant_bits)
        if name in self.constants:
            raise ValueError(f"two constants are called {name}")
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, which has the node's name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolution(
        self,
        x: str,
        convolution: Convolution,
        name: str,
        *,
        relu: bool = False,
        pads: tuple[int, int] | None = None,
        shared: str | None = None,
    ) -> str:
        """Add a convolution, and with `relu` a ReLU after it.

        Args:
            pads: rows of zeros added above and below, and columns left and right; None keeps height and width.
            shared: the name of a weight that several convolutions share, stored once.
        """
        rows, columns = convolution.weight.shape[2:]
        above, left = (rows // 2, columns // 2) if pads is None else pads
        weight = f"{shared or name}.weight"
        if weight not in self.constants:
            self.constant(weight, convolution.weight)
        inputs = [x, weight]
        if convolution.bias is not None:
            inputs.append(self.constant(f"{name}.bias", convolution.bias))
        output = self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[rows, columns],
            pads=[above, left, above, left],
            group=convolution.groups,
        )
        return self.node("Relu", [output], f"{name}.relu") if relu else output

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """Add a slice along one axis, unless the graph has it already."""
        name = f"{x}.from.{start}.axis.{axis}"
        if all(node.name != name for node in self.nodes):
            bounds = [
                self.constant(f"{name}.{part}", np.array([value], np.int64))
                for part, value in (("start", start), ("stop", stop), ("axis", axis))
            ]
            self.node("Slice", [x, *bounds], name)
        return name

    def scaled(self, x: str, factor: float, name: str) -> str:
        """Add a multiplication by a number."""
        return self.node("Mul", [x, self.constant(f"{name}.scale", np.float32(factor))], f"{name}.scaled")

    def finish(self, *, name: str, image: str, upscaled: str, artifact: Artifact) -> onnx.ModelProto:
        """Make the model: uint8 N x height x width x 3 in and out, all dynamic but the 3, with metadata."""
        axes: list[str | int | None] = ["batch", "height", "width", 3]
        upscaled_axes: list[str | int | None] = ["batch", "upscaled_height", "upscaled_width", 3]
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(image, TensorProto.UINT8, axes)],
            [helper.make_tensor_value_info(upscaled, TensorProto.UINT8, upscaled_axes)],
            list(self.constants.values()),
        )
        producer, _, version = artifact.producer.partition(" ")
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=version,
        )
        helper.set_model_props(model, artifact.to_metadata())
        return model


def with_nodes(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """Return a copy of a model with other nodes and constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants)
    return copy


def rounded(value: NDArray[np.float32], significant_bits: int) -> NDArray[np.float32]:
    """Round float32 numbers to a number of significant bits, at most 24, which is all: the lower bits become zero."""
    dropped = 24 - significant_bits
    if dropped == 0:
        return value
    bits = value.view(np.uint32).astype(np.uint64)
    half = np.uint64(1 << (dropped - 1))
    mask = np.uint64(0xFFFFFFFF ^ ((1 << dropped) - 1))
    kept: NDArray[np.float32] = ((bits + half) & mask).astype(np.uint32).view(np.float32).reshape(value.shape)
    return kept
