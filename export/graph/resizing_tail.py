"""The network's tail as it is defined, on the overscaled grid: for networks whose overscaling has several stages.

The last convolution is a mix of channels for each of its nine taps, and a sum over the taps. Mixing channels commutes
with resizing each channel, so the mix is moved before the resize, which then has 9 x 3 channels instead of 64.
"""

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.imaging.resample import NETWORK_SHARPNESS
from overnet.network.deploy import Convolution, DeployedNetwork


def resizing_tail(
    graph: GraphBuilder, network: DeployedNetwork, features: str, centred: str, scale: int, *, mix_first: bool = True
) -> str:
    """Add the tail.

    Args:
        features: the trunk's output, N x width x H x W.
        centred: the image in levels, less the mean, N x 3 x H x W.
        scale: a whole number, at most the overscale factor.
        mix_first: mix the channels before the resize; otherwise all are resized, as the network is defined.

    Returns:
        N x 3 x scale*H x scale*W, in levels with the mean added.
    """
    for index, (stage, factor) in enumerate(zip(network.stages, network.stage_factors, strict=True)):
        enlarged = graph.convolution(features, stage, f"overscale.{index}", relu=True)
        features = graph.node("DepthToSpace", [enlarged], f"overscale.{index}.shuffle", blocksize=factor, mode="CRD")
    if mix_first:
        features = graph.convolution(features, Convolution(network.mix, None), "mix")
        # 3 x 27 x 3 x 3: a single 1 for each tap and colour, which adds up the nine neighbours.
        last = np.eye(27, dtype=np.float32).reshape(27, 9, 3).transpose(2, 0, 1).reshape(3, 27, 3, 3)
    else:
        last = network.mix.reshape(3, 3, 3, -1).transpose(2, 3, 0, 1)
    resized = bicubic_resize(graph, features, scale / network.config.overscale, "resize")
    detail = graph.convolution(
        resized, Convolution(np.ascontiguousarray(last), network.exit_bias), "gather" if mix_first else "exit"
    )
    return graph.node("Add", [detail, bicubic_resize(graph, centred, scale, "base")], "added")


def bicubic_resize(graph: GraphBuilder, x: str, factor: float, name: str) -> str:
    """Add the network's bicubic resize (`overnet.network.model.bicubic`) by a constant factor; 1 adds nothing."""
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
