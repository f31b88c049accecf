"""The deployed network as an ONNX graph, one for each scale.

The graph is written node by node from the deployed form instead of traced: the layout and name of each tensor are
decided here, and the file does not depend on the version of an exporter. `overnet.export.exporter` compares it with
the network in PyTorch afterwards.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from overnet._version import __version__
from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.periodic_tail import periodic_tail
from overnet.export.graph.plain import plain_features
from overnet.export.graph.resizing_tail import resizing_tail
from overnet.export.graph.trunk import features
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME, Artifact
from overnet.network.deploy import DeployedNetwork

# default: no tensor on the overscaled grid, and no concatenations. lean-memory: the same results in more and smaller
# steps, with less memory (see `overnet.export.graph.trunk.features`). plain: as the network is defined, for comparison.
Form = Literal["default", "lean-memory", "plain"]


def build_onnx(
    network: DeployedNetwork, scale: int, *, form: Form = "default", significant_bits: int = 24
) -> onnx.ModelProto:
    """Build the graph for one scale.

    Args:
        network: the deployed form.
        scale: a whole number from 1 to the network's overscale factor.
        form: one of the forms, which give the same results (see `Form`).
        significant_bits: bits kept of each weight; see `GraphBuilder`.

    Returns:
        A model with uint8 N x H x W x 3 RGB in and uint8 N x scale*H x scale*W x 3 RGB out, checked by
        ``onnx.checker``.

    Raises:
        ValueError: the scale is not a whole number in range.
    """
    overscale = network.config.overscale
    if scale != int(scale) or not 1 <= scale <= overscale:
        raise ValueError(f"scale is {scale:g}; ONNX files are made for whole scales from 1 to {overscale}")
    graph = GraphBuilder(significant_bits=significant_bits)
    # TensorRT allows uint8 only at the graph's ends, next to a cast: so the casts are the first and the last node.
    levels = graph.node("Cast", [INPUT_NAME], "levels", to=onnx.TensorProto.FLOAT)
    planar = graph.node("Transpose", [levels], "planar", perm=[0, 3, 1, 2])
    mean = graph.constant("mean", network.mean.reshape(1, 3, 1, 1))
    centred = graph.node("Sub", [planar, mean], "centred")

    if form == "plain":
        extracted = plain_features(graph, network, centred)
        added = resizing_tail(graph, network, extracted, centred, scale, mix_first=False)
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
    """Return the metadata of a graph from `build_onnx`."""
    return Artifact(
        scale=scale,
        overscale=network.config.overscale,
        precision="fp32",
        weights_sha256=network.weights_sha256,
        producer=f"overnet {__version__}",
    )
