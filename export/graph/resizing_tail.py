"""The network's tail as it is defined, on the overscaled grid: for fractions, and for several stages of overscaling.

The last convolution is a mix of channels for each of its nine taps, and a sum over the taps. Mixing channels commutes
with resizing each channel, so the mix is moved before the resize, which then has 9 x 3 channels instead of 64.

At a fractional scale the result's sides are rounded, so that the ratio of the grids differs from image to image: the
graph computes the result's size, and resizes to that.
"""

from fractions import Fraction

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.periodic_tail import mixed_phase, tap_mix
from overnet.files.onnx_metadata import INPUT_NAME
from overnet.imaging.resample import NETWORK_SHARPNESS
from overnet.network.deploy import Convolution, DeployedNetwork


def resizing_tail(
    graph: GraphBuilder, network: DeployedNetwork, features: str, centred: str, scale: Fraction, *, as_defined: bool
) -> str:
    """Add the tail.

    Args:
        features: the trunk's output, N x width x H x W.
        centred: the image in levels, less the mean, N x 3 x H x W.
        scale: at most the overscale factor.
        as_defined: resize all channels, as the network is defined, and mix them afterwards.

    Returns:
        N x 3 x round(scale*H) x round(scale*W), in levels with the mean added.
    """
    size = None if scale.denominator == 1 else _result_size(graph, scale)
    if len(network.stages) == 1 and not as_defined:
        (overscale,) = network.stage_factors
        phases = [mixed_phase(graph, network, features, *divmod(phase, overscale)) for phase in range(overscale**2)]
        together = graph.node("Concat", phases, "overscale.phases", axis=1)
        features = graph.node("DepthToSpace", [together], "overscale.shuffle", blocksize=overscale, mode="DCR")
    else:
        for index, (stage, factor) in enumerate(zip(network.stages, network.stage_factors, strict=True)):
            enlarged = graph.convolution(features, stage, f"overscale.{index}", relu=True)
            name = f"overscale.{index}.shuffle"
            features = graph.node("DepthToSpace", [enlarged], name, blocksize=factor, mode="CRD")
        if not as_defined:
            features = graph.convolution(features, tap_mix(network), "mix")
    if as_defined:
        last = network.mix.reshape(3, 3, 3, -1).transpose(2, 3, 0, 1)
    else:
        # 3 x 27 x 3 x 3: a single 1 for each tap and colour, which adds up the nine neighbours.
        last = np.eye(27, dtype=np.float32).reshape(27, 3, 3, 3).transpose(1, 0, 3, 2)
    resized = _bicubic_resize(graph, features, scale / network.config.overscale, size, "resize")
    detail = graph.convolution(
        resized, Convolution(np.ascontiguousarray(last), network.exit_bias), "exit" if as_defined else "gather"
    )
    return graph.node("Add", [detail, _bicubic_resize(graph, centred, scale, size, "base")], "added")


def _result_size(graph: GraphBuilder, scale: Fraction) -> str:
    """Add the height and width of the result: those of the image times the scale, halves rounded up; two integers."""
    size = graph.node("Shape", [INPUT_NAME], "size.image", start=1, end=3)
    for operator, name, value in (
        ("Mul", "size.multiplied", 2 * scale.numerator),
        ("Add", "size.raised", scale.denominator),
        ("Div", "size", 2 * scale.denominator),
    ):
        size = graph.node(operator, [size, graph.constant(f"{name}.by", np.array([value], np.int64))], name)
    return size


def _bicubic_resize(graph: GraphBuilder, x: str, factor: Fraction, size: str | None, name: str) -> str:
    """Add the network's bicubic resize (`overnet.network.model.bicubic`) by a factor, or to a size that the graph has.

    A factor of 1 adds nothing.
    """
    if factor == 1:
        return x
    if size is None:
        target = ["", graph.constant(f"{name}.factors", np.array([1, 1, factor, factor], np.float32))]
    else:
        kept = graph.node("Shape", [x], f"size.{name}.kept", start=0, end=2)
        target = ["", "", graph.node("Concat", [kept, size], f"size.{name}", axis=0)]
    return graph.node(
        "Resize",
        [x, *target],
        name,
        mode="cubic",
        cubic_coeff_a=NETWORK_SHARPNESS,
        coordinate_transformation_mode="half_pixel",
    )
