"""A wrapped graph in another precision."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx
from onnx import helper

from overnet.errors import InputError
from overnet.export.foreign.shapes import tensor_shapes, tensor_types
from overnet.export.graph.costs import Costs, costs_of
from overnet.export.options import CalibrationOptions
from overnet.export.precision.convert import LoweredGraph
from overnet.files.onnx_metadata import Artifact
from overnet.types import Image, Progress

# Height and width of the image that costs are counted for.
_SIDE = 64


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
    """
    if precision != "fp32":
        raise InputError(f"{precision}: not yet")
    costs = costs_of_foreign(exact, artifact)
    assert artifact.foreign is not None
    artifact = replace(
        artifact,
        precision=precision,
        activation_bytes=math.ceil(costs.activation_bytes_per_pixel),
        foreign=replace(artifact.foreign, multiply_accumulates=costs.multiply_accumulates_per_pixel),
    )
    helper.set_model_props(exact, artifact.to_metadata())
    return LoweredGraph(exact, exact.SerializeToString(), exact, artifact, (), costs)


def costs_of_foreign(model: onnx.ModelProto, artifact: Artifact) -> Costs:
    """Count the costs of a wrapped graph."""
    height, width = (artifact.foreign and artifact.foreign.largest) or (_SIDE, _SIDE)
    return costs_of(model, tensor_shapes(model, height, width), tensor_types(model), height * width)
