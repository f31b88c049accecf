"""The deployed network as an ONNX graph, one a scale.

The graph is written node by node from the deployed form, not traced: which precision, layout and names each tensor has
is decided here, and the file does not depend on the version of an exporter. That it computes what the network
computes is checked afterwards, against PyTorch, by `overnet.export.exporter`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from overnet._version import __version__
from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.periodic_tail import periodic_tail
from overnet.export.graph.plain import plain_features, plain_tail
from overnet.export.graph.resizing_tail import resizing_tail
from overnet.export.graph.trunk import features
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME, Artifact
from overnet.network.deploy import DeployedNetwork

# default: nothing on the overscaled grid, and no concatenations. lean-memory: the same numbers in more and smaller
# steps, with less memory (`overnet.export.graph.trunk.features`). plain: as the network is defined, to measure against.
Form = Literal["default", "lean-memory", "plain"]


def build_onnx(
    network: DeployedNetwork, scale: int, *, form: Form = "default", significant_bits: int = 24
) -> onnx.ModelProto:
    """Write the graph for one scale.

    Args:
        network: the deployed form.
        scale: a whole number from 1 to the network's overscale factor.
        form: which of the forms that compute the same (see `Form`).
        significant_bits: bits kept of each weight, 24 being all (see `GraphBuilder`).

    Returns:
        A model with uint8 N x H x W x 3 RGB in and uint8 N x scale*H x scale*W x 3 RGB out, checked by
        ``onnx.checker``.

    Raises:
        ValueError: the scale is no whole number in range.
    """
    overscale = network.config.overscale
    if scale != int(scale) or not 1 <= scale <= overscale:
        raise ValueError(f"scale is {scale:g}; ONNX files are made for whole scales from 1 to {overscale}")
    graph = GraphBuilder(significant_bits=significant_bits)
    # TensorRT allows uint8 only at the graph's ends, next to a cast: so the cast is first, and last.
    levels = graph.node("Cast", [INPUT_NAME], "levels", to=onnx.TensorProto.FLOAT)
    planar = graph.node("Transpose", [levels], "planar", perm=[0, 3, 1, 2])
    mean = graph.constant("mean", network.mean.reshape(1, 3, 1, 1))
    centred = graph.node("Sub", [planar, mean], "centred")

    if form == "plain":
        extracted = plain_features(graph, network, centred)
        tail = plain_tail
    else:
        extracted = features(graph, network, centred, lean_memory=form == "lean-memory")
        tail = periodic_tail if len(network.stages) == 1 else resizing_tail
    added = tail(graph, network, extracted, centred, scale)

    black = graph.constant("black", np.float32(0))
    white = graph.constant("white", np.float32(255))
    clipped = graph.node("Clip", [added, black, white], "clipped")
    whole = graph.node("Round", [clipped], "rounded")
    interleaved = graph.node("Transpose", [whole], "interleaved", perm=[0, 2, 3, 1])
    graph.node("Cast", [interleaved], OUTPUT_NAME, to=onnx.TensorProto.UINT8)
    model = graph.finish(
        name=f"overnet_x{scale}", image=INPUT_NAME, upscaled=OUTPUT_NAME, artifact=artifact_of(network, scale)
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def artifact_of(network: DeployedNetwork, scale: int) -> Artifact:
    """How a graph of `build_onnx` describes itself."""
    return Artifact(
        scale=scale,
        overscale=network.config.overscale,
        precision="fp32",
        weights_sha256=network.weights_sha256,
        producer=f"overnet {__version__}",
    )
