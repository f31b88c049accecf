"""The network's tail as it is defined, on the overscaled grid: for networks whose overscaling has several stages.

The last convolution mixes channels before the resize and adds up its nine neighbours after it: mixing channels commutes
with a resize of each channel, so the resize carries 9 x 3 channels instead of 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from overnet.export.graph.builder import GraphBuilder
from overnet.imaging.resample import NETWORK_SHARPNESS
from overnet.network.deploy import Convolution, DeployedNetwork


def resizing_tail(graph: GraphBuilder, network: DeployedNetwork, features: str, centred: str, scale: int) -> str:
    """Add the tail.

    Args:
        features: the trunk's output, N x width x H x W.
        centred: the image in levels, less the mean, N x 3 x H x W.
        scale: whole, at most the overscale factor.

    Returns:
        N x 3 x scale*H x scale*W, in levels with the mean added.
    """
    for index, (stage, factor) in enumerate(zip(network.stages, network.stage_factors, strict=True)):
        enlarged = graph.convolution(features, stage, f"overscale.{index}", relu=True)
        features = graph.node("DepthToSpace", [enlarged], f"overscale.{index}.shuffle", blocksize=factor, mode="CRD")
    mixed = graph.convolution(features, Convolution(network.mix, None), "mix")
    resized = bicubic_resize(graph, mixed, scale / network.config.overscale, "resize")
    detail = graph.convolution(resized, Convolution(_shifts(), network.exit_bias), "gather")
    return graph.node("Add", [detail, bicubic_resize(graph, centred, scale, "base")], "added")


def _shifts() -> NDArray[np.float32]:
    """The 3x3 convolution that adds up nine neighbours: 3 x 27 x 3 x 3, one 1 for each tap and colour."""
    shifts = np.zeros((3, 3, 3, 3, 3, 3), np.float32)
    for row in range(3):
        for column in range(3):
            for colour in range(3):
                shifts[colour, row, column, colour, row, column] = 1
    return shifts.reshape(3, 27, 3, 3)


def bicubic_resize(graph: GraphBuilder, x: str, factor: float, name: str) -> str:
    """The network's bicubic resize (`overnet.network.model.bicubic`) by a constant factor; 1 adds nothing."""
    if factor == 1:
        return x
    factors = graph.constant(f"{name}.factors", np.array([1, 1, factor, factor], np.float32))
    return graph.node(
        "Resize",
        [x, "", factors],
        name,
        mode="cubic",
        cubic_coeff_a=NETWORK_SHARPNESS,
        coordinate_transformation_mode="half_pixel",
    )
