"""The conversion of an FP32 graph to another precision that needs no calibration. Needs no torch."""

import math
from dataclasses import dataclass, replace

import onnx
from onnx import helper

from overnet.export.graph.costs import Costs, count_costs
from overnet.export.precision.fp16_range import LARGEST_HALF, nodes_beyond_half
from overnet.export.precision.half import to_half
from overnet.files.onnx_metadata import Artifact
from overnet.types import Image

# Of the nodes in a note.
_MOST_NAMED = 12


@dataclass(frozen=True)
class LoweredGraph:
    """A converted graph, ready to be written.

    Attributes:
        model: in the precision that `artifact` states, which is in its metadata.
        content: the same, serialised.
        exact: the same graph in FP32.
        notes: what the user should know, one line each.
        costs: of the graph; None where `overnet.export.graph.costs.count_costs` counts them.
    """

    model: onnx.ModelProto
    content: bytes
    exact: onnx.ModelProto
    artifact: Artifact
    notes: tuple[str, ...]
    costs: Costs | None = None


def labelled(model: onnx.ModelProto, exact: onnx.ModelProto, artifact: Artifact, notes: list[str]) -> LoweredGraph:
    """Write a converted graph's metadata, its memory included, and check the graph with ``onnx.checker``."""
    artifact = replace(artifact, activation_bytes=math.ceil(count_costs(exact).activation_bytes_per_pixel))
    helper.set_model_props(model, artifact.to_metadata())
    if artifact.precision != "bf16":
        # The checker knows convolutions in BF16 only from opset 22 on, and TensorRT 10.3 reads none above 20.
        onnx.checker.check_model(model, full_check=True)
    return LoweredGraph(model, model.SerializeToString(), exact, artifact, tuple(notes))


def converted(exact: onnx.ModelProto, precision: str, images: list[Image]) -> tuple[onnx.ModelProto, list[str]]:
    """Convert a graph to FP32, FP16 or BF16, and return it with notes for the user.

    Args:
        exact: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        images: H x W x 3 uint8 each: nodes whose numbers on them come near FP16's largest stay in FP32.
    """
    if precision == "fp32":
        return exact, []
    if precision == "bf16":
        return to_half(exact, "bf16"), []
    beyond = nodes_beyond_half(exact, images)
    return to_half(exact, "fp16", keep=set(beyond)), beyond_notes(beyond)


def beyond_notes(beyond: dict[str, float]) -> list[str]:
    """Return the note on nodes that stay in FP32, from `overnet.export.precision.fp16_range.nodes_beyond_half`."""
    if not beyond:
        return []
    named = ", ".join(f"{node} ({largest:,.0f})" for node, largest in [*beyond.items()][:_MOST_NAMED])
    named += f" and {len(beyond) - _MOST_NAMED} more" if len(beyond) > _MOST_NAMED else ""
    return [f"in FP32 because their numbers come near FP16's largest, {LARGEST_HALF:,.0f}: {named}"]
