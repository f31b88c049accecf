"""The deployed network as an ONNX graph, one for each scale.

The graph is written node by node from the deployed form instead of traced: the layout and name of each tensor are
decided here, and the file does not depend on the version of an exporter. `overnet.export.exporter` compares it with
the network in PyTorch afterwards.
"""

from typing import Literal

import numpy as np
import onnx

from overnet._version import __version__
from overnet.export.graph.as_defined import features_as_defined
from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.periodic_tail import periodic_tail
from overnet.export.graph.resizing_tail import resizing_tail
from overnet.export.graph.trunk import features
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME, Artifact, exact_scale
from overnet.network.deploy import Convolution, Deployed, DeployedNetwork, DeployedPlainNetwork

# default: no concatenations in the trunk, and at whole scales no tensor on the overscaled grid. lean-memory: the same
# results in more and smaller steps, with less memory (see `overnet.export.graph.trunk.features`). as-defined: as the
# network is defined, for comparison. A plain network has one form, which is all of these.
Form = Literal["default", "lean-memory", "as-defined"]


def build_onnx(
    network: Deployed, scale: float, *, form: Form = "default", significant_bits: int = 24
) -> onnx.ModelProto:
    """Build the graph for one scale.

    Args:
        network: the deployed form.
        scale: one that the network has: of an OverNet, from 1 to its overscale factor, with at most three
            decimals.
        form: one of the forms, which give the same results (see `Form`).
        significant_bits: bits kept of each weight; see `GraphBuilder`.

    Returns:
        A model with uint8 N x H x W x 3 RGB in and uint8 N x round(scale*H) x round(scale*W) x 3 RGB out, checked by
        ``onnx.checker``.

    Raises:
        ValueError: the scale has more than three decimals, or the network does not have it.
    """
    if not network.config.serves(scale) or round(scale, 3) != scale:
        raise ValueError(
            f"scale is {scale}; it has at most three decimals, and this network {network.config.scales_text}"
        )
    exact = exact_scale(scale)
    graph = GraphBuilder(significant_bits=significant_bits)
    # TensorRT allows uint8 only at the graph's ends, next to a cast: so the casts are the first and the last node.
    levels = graph.node("Cast", [INPUT_NAME], "levels", to=onnx.TensorProto.FLOAT)
    planar = graph.node("Transpose", [levels], "planar", perm=[0, 3, 1, 2])
    if isinstance(network, DeployedPlainNetwork):
        upscaled = _plain_network(graph, network, planar, int(scale))
    else:
        mean = graph.constant("mean", network.mean.reshape(1, 3, 1, 1))
        centred = graph.node("Sub", [planar, mean], "centred")
        if form == "as-defined":
            extracted = features_as_defined(graph, network, centred)
            upscaled = resizing_tail(graph, network, extracted, centred, exact, as_defined=True)
        else:
            extracted = features(graph, network, centred, lean_memory=form == "lean-memory")
            if len(network.stages) == 1 and exact.denominator == 1:
                upscaled = periodic_tail(graph, network, extracted, centred, int(scale))
            else:
                upscaled = resizing_tail(graph, network, extracted, centred, exact, as_defined=False)

    black = graph.constant("black", np.float32(0))
    white = graph.constant("white", np.float32(255))
    clipped = graph.node("Clip", [upscaled, black, white], "clipped")
    whole = graph.node("Round", [clipped], "rounded")
    interleaved = graph.node("Transpose", [whole], "interleaved", perm=[0, 2, 3, 1])
    graph.node("Cast", [interleaved], OUTPUT_NAME, to=onnx.TensorProto.UINT8)
    model = graph.finish(
        name=f"overnet_x{scale:g}", image=INPUT_NAME, upscaled=OUTPUT_NAME, artifact=artifact_of(network, scale)
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _plain_network(graph: GraphBuilder, network: DeployedPlainNetwork, planar: str, scale: int) -> str:
    """Add a plain network: its convolutions, and the repeated input added before pixels are shuffled.

    Args:
        planar: the image in levels, N x 3 x H x W.
        scale: one that there is a head for.

    Returns:
        N x 3 x scale*H x scale*W, in levels, not clipped.
    """
    x = planar
    for index, convolution in enumerate(network.trunk):
        name = f"body.{index - 1}" if index else "entry"
        x = graph.convolution(x, convolution, name, relu=not network.slopes)
        if network.slopes:
            slope = graph.constant(f"{name}.slope", network.slopes[index].reshape(-1, 1, 1))
            x = graph.node("PRelu", [x, slope], f"{name}.prelu")
    detail = graph.convolution(x, network.heads[scale], "head")
    # A convolution repeats each colour: runtimes fuse the addition to it, and in every number type levels are exact.
    repeat = Convolution(np.ones((3 * scale**2, 1, 1, 1), np.float32), None, 3)
    added = graph.node("Add", [detail, graph.convolution(planar, repeat, "base")], "added")
    return graph.node("DepthToSpace", [added], "shuffled", blocksize=scale, mode="CRD")


def artifact_of(network: Deployed, scale: float) -> Artifact:
    """Return the metadata of a graph from `build_onnx`."""
    return Artifact(
        scale=scale,
        overscale=network.config.overscale if isinstance(network, DeployedNetwork) else int(scale),
        precision="fp32",
        weights_sha256=network.weights_sha256,
        reach=network.config.reach,
        producer=f"overnet {__version__}",
    )
