"""A thin layer over ``onnx.helper``: a graph under construction, whose nodes carry readable names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from overnet.files.onnx_metadata import Artifact

if TYPE_CHECKING:
    from overnet.network.deploy import Convolution

# The newest that TensorRT 10.3 reads (edge-facts: parsers of 10.x read opsets 9 to 20).
OPSET = 20
# ONNX 1.16's; older runtimes refuse files that claim a newer one.
IR_VERSION = 10


class GraphBuilder:
    """Collects nodes and constants. Every method that adds a node returns the name of the node's output.

    Args:
        significant_bits: how many bits of each float32 weight are kept, 24 being all. Fewer compress better.
    """

    def __init__(self, *, significant_bits: int = 24) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.significant_bits = significant_bits

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant; floating-point ones are stored as float32."""
        if np.issubdtype(value.dtype, np.floating):
            value = rounded(value.astype(np.float32), self.significant_bits)
        if name in self.constants:
            raise ValueError(f"two constants are called {name}")
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node of one output, which is called as the node is."""
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
        """Add a convolution, and a ReLU after it if asked.

        Args:
            pads: zeros added above and below, and left and right; None for so many that height and width are kept.
            shared: the name of the weights, where several nodes have the same; stored once.
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
        """Add a slice along one axis, or find the one that is there already."""
        name = f"{x}.from.{start}.axis.{axis}"
        if all(node.name != name for node in self.nodes):
            bounds = [
                self.constant(f"{name}.{part}", np.array([value], np.int64))
                for part, value in (("start", start), ("stop", stop), ("axis", axis))
            ]
            self.node("Slice", [x, *bounds], name)
        return name

    def scaled(self, x: str, factor: float, name: str) -> str:
        """Add a product with a number."""
        return self.node("Mul", [x, self.constant(f"{name}.scale", np.float32(factor))], f"{name}.scaled")

    def mean_over_image(self, x: str, name: str) -> str:
        """Add the mean over height and width: N x C x H x W to N x C x 1 x 1."""
        return self.node("GlobalAveragePool", [x], name)

    def finish(self, *, name: str, image: str, upscaled: str, artifact: Artifact) -> onnx.ModelProto:
        """Make the model: uint8 N x height x width x 3 in and out, all but the 3 dynamic, described by `artifact`."""
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


def rounded(value: NDArray[np.float32], significant_bits: int) -> NDArray[np.float32]:
    """Round float32 numbers to so many significant bits (24 keeps all): the bits below become zero."""
    dropped = 24 - significant_bits
    if dropped == 0:
        return value
    bits = value.view(np.uint32).astype(np.uint64)
    half = np.uint64(1 << (dropped - 1))
    mask = np.uint64(0xFFFFFFFF ^ ((1 << dropped) - 1))
    kept: NDArray[np.float32] = ((bits + half) & mask).astype(np.uint32).view(np.float32).reshape(value.shape)
    return kept
