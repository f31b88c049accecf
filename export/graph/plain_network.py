"""A deployed plain network: its convolutions, and the repeated input added before pixels are shuffled."""

from __future__ import annotations

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.network.deploy import Convolution, DeployedPlainNetwork


def plain_network(graph: GraphBuilder, network: DeployedPlainNetwork, planar: str, scale: int) -> str:
    """Add the network.

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
