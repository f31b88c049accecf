"""The network's tail on the input's grid: no tensor on the overscaled grid, and no resize.

The plain tail enlarges 64 channels u times (u: overscale factor), resizes them to s times (s: scale), and convolves.
Here nothing is enlarged before the end. Every step but the ReLU is linear, and periodic: it is the same for the u x u
overscaled pixels, and the s x s output pixels, of every input pixel. So:

* for each of the u x u phases, the 64 channels are computed on the input's grid and mixed to 3 colours x 3 x 3 taps of
  the last convolution (mixing channels commutes with the resize);
* the vertical resize and the vertical part of the last convolution become one convolution over input rows, from the u
  row phases to s, and likewise the horizontal ones. The result has 3 s^2 channels, which a shuffle makes an image.

The borders are exact. The resize clamps to the edge of the *overscaled* image, so a row beyond the edge repeats the
edge's own phase. The last convolution pads the *resized* image with zeros, so for the tap that takes the row above, the
rows beyond the edge get values for which the resized row above the image is zero (a linear condition).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overnet.export.graph.builder import GraphBuilder
from overnet.imaging.resample import NETWORK_SHARPNESS, cubic_kernel
from overnet.network.deploy import Convolution, DeployedNetwork

_COLOURS = 3
_TAPS = 3
_LAST = np.iinfo(np.int64).max


def _taps(position: float) -> dict[int, float]:
    """Return the network's bicubic weights of the pixels around a position, where pixel centres are whole numbers."""
    indices = int(np.floor(position)) + np.arange(-1, 3)
    weights = cubic_kernel((position - indices).astype(np.float64), NETWORK_SHARPNESS)
    return {int(index): float(weight) for index, weight in zip(indices, weights, strict=True) if abs(weight) > 1e-12}


@dataclass(frozen=True)
class AxisResize:
    """The resize and the last convolution along one axis, between phases on the input's grid.

    Attributes:
        reach: the number of input pixels on either side of its own that an output pixel depends on.
        weights: taps x s x (2 reach + 1) x u: the weight of each phase of the input pixels from `reach` before its own
            to `reach` after it, in each tap of each output phase.
        before: taps x reach x u: factors of the overscaled pixel at the edge that give the pixels before it.
        after: taps x reach x u: the same beyond the other edge.
    """

    reach: int
    weights: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def axis_resize(overscale: int, scale: int) -> AxisResize:
    """Compute the weights from the overscaled grid (u an input pixel) to the output's grid (s an input pixel)."""
    samples = {row: _taps((row + 0.5) * overscale / scale - 0.5) for row in range(-1, scale + 1)}
    lowest = min(min(sample) for sample in samples.values())
    highest = max(max(sample) for sample in samples.values())
    reach = max(-(lowest // overscale), highest // overscale, 1)
    weights = np.zeros((_TAPS, scale, (2 * reach + 1) * overscale))
    for tap in range(_TAPS):
        for row in range(scale):
            for index, weight in samples[row + tap - 1].items():
                weights[tap, row, index + reach * overscale] = weight
    before = np.ones((_TAPS, reach * overscale))
    before[0] = _vanishing(samples[-1], [samples[row] for row in range(scale)], reach * overscale)
    # By symmetry, the factors after the end are those before the beginning in reverse order.
    after = before[::-1, ::-1]
    return AxisResize(
        reach,
        weights.reshape(_TAPS, scale, 2 * reach + 1, overscale),
        before.reshape(_TAPS, reach, overscale),
        after.reshape(_TAPS, reach, overscale),
    )


def _vanishing(outside: dict[int, float], inside: list[dict[int, float]], count: int) -> NDArray[np.float64]:
    """Return the pixels before the edge, as factors of the edge, for which the sample outside is zero.

    Samples inside see the edge repeated. Index i is overscaled pixel i - count; the pixel at the edge is 0. Of all
    solutions, the factors are the smallest.
    """
    factors = np.zeros(count)
    seen = {index for sample in inside for index in sample if index < 0}
    for index in seen:
        factors[index + count] = 1
    free = [index for index in outside if index < 0 and index not in seen]
    rest = sum(weight for index, weight in outside.items() if index >= 0 or index in seen)
    if not free:
        if abs(rest) > 1e-12:
            raise ValueError("no border makes the row outside the image vanish")
        return factors
    weights = np.array([outside[index] for index in free])
    for index, factor in zip(free, -rest * weights / np.sum(weights**2), strict=True):
        factors[index + count] = factor
    return factors


def periodic_tail(graph: GraphBuilder, network: DeployedNetwork, features: str, centred: str, scale: int) -> str:
    """Add the tail.

    Args:
        features: the trunk's output, N x width x H x W.
        centred: the image in levels, less the mean, N x 3 x H x W.
        scale: a whole number, at most the overscale factor; the network has one overscaling stage.

    Returns:
        N x 3 x scale*H x scale*W, in levels with the mean added.
    """
    (overscale,) = network.stage_factors
    axis = axis_resize(overscale, scale)
    columns: list[str] = []
    for column in range(overscale):
        mixed = [mixed_phase(graph, network, features, row, column) for row in range(overscale)]
        columns.append(_resized(graph, mixed, axis, scale, f"tail.column.{column}.row", vertical=True))
    detail = _resized(graph, columns, axis, scale, "tail.across", vertical=False)
    added = graph.node("Add", [detail, _base(graph, network, centred, scale)], "added")
    return graph.node("DepthToSpace", [added], "shuffled", blocksize=scale, mode="CRD") if scale > 1 else added


def mixed_phase(graph: GraphBuilder, network: DeployedNetwork, features: str, row: int, column: int) -> str:
    """Add one phase of the overscaled features, mixed for the taps of the last convolution: N x 27 x H x W."""
    (stage,), (overscale,) = network.stages, network.stage_factors
    name = f"tail.phase.{row}.{column}"
    phase = row * overscale + column
    # The shuffle moves channel c u^2 + phase to channel c of that phase.
    assert stage.bias is not None
    picked = Convolution(stage.weight[phase :: overscale**2], stage.bias[phase :: overscale**2], stage.groups)
    enlarged = graph.convolution(features, picked, f"{name}.overscale", relu=True)
    return graph.convolution(enlarged, tap_mix(network), f"{name}.mix", shared="tail.mix")


def tap_mix(network: DeployedNetwork) -> Convolution:
    """Return the channel mix of the last convolution, to 27 channels in the order colour, column tap, row tap."""
    taps = network.mix.reshape(_TAPS, _TAPS, _COLOURS, -1).transpose(2, 1, 0, 3)
    return Convolution(np.ascontiguousarray(taps.reshape(_COLOURS * _TAPS**2, -1, 1, 1)), None)


def _resized(graph: GraphBuilder, phases: list[str], axis: AxisResize, scale: int, name: str, *, vertical: bool) -> str:
    """Add the resize and convolution along one axis, from its phases to output pixels.

    Vertically, the channels are colour, column tap and row tap, and become colour, column tap and output row: N x 9 s x
    H x W. Horizontally, these become colour, output row and output column: N x 3 s^2 x H x W.
    """
    total = ""
    for phase, x in enumerate(phases):
        part = f"{name}.{phase}"
        before, after = axis.before[:, :, phase], axis.after[:, :, phase]
        weights = axis.weights[:, :, :, phase].transpose(1, 0, 2)
        # Column taps, and then output rows, are kept apart: of these dimensions only the diagonal is filled.
        if vertical:
            before, after = (np.tile(side, (_COLOURS * _TAPS, 1)) for side in (before, after))
            diagonal = np.arange(_TAPS)
            blocks = np.zeros((_TAPS, scale, _TAPS, _TAPS, 2 * axis.reach + 1))
            blocks[diagonal, :, diagonal] = weights
            kernel = blocks.reshape(_TAPS * scale, _TAPS**2, -1, 1)
        else:
            before, after = (np.tile(np.repeat(side, scale, axis=0), (_COLOURS, 1)) for side in (before, after))
            diagonal = np.arange(scale)
            blocks = np.zeros((scale, scale, _TAPS, scale, 2 * axis.reach + 1))
            blocks[diagonal, :, :, diagonal] = weights
            kernel = blocks.reshape(scale**2, _TAPS * scale, 1, -1)
        # Padded with multiples of the first and the last phase's edges.
        along = 2 if vertical else 3
        above = _strips(graph, graph.slice(phases[0], 0, 1, along), before, f"{part}.before")
        below = _strips(graph, graph.slice(phases[-1], -1, _LAST, along), after, f"{part}.after")
        padded = graph.node("Concat", [*above, x, *below], f"{part}.padded", axis=along)
        convolution = Convolution(np.tile(kernel, (_COLOURS, 1, 1, 1)).astype(np.float32), None, _COLOURS)
        shared = f"tail.row.{phase}" if vertical else None
        resized = graph.convolution(padded, convolution, f"{part}.resize", shared=shared, pads=(0, 0))
        total = graph.node("Add", [total, resized], f"{part}.sum") if total else resized
    return total


def _strips(graph: GraphBuilder, edge: str, factors: NDArray[np.float64], name: str) -> list[str]:
    """Add multiples of an edge, to pad with; the factors are channels x reach."""
    strips = []
    for index, column in enumerate(factors.T.astype(np.float32)):
        factor = graph.constant(f"{name}.{index}", column.reshape(1, -1, 1, 1))
        strips.append(graph.node("Mul", [edge, factor], f"{name}.{index}.edge"))
    return strips


def _base(graph: GraphBuilder, network: DeployedNetwork, centred: str, scale: int) -> str:
    """Add the bicubic resize of the input, plus the last convolution's bias: N x 3 s^2 x H x W."""
    if scale == 1:
        weights = np.ones((1, 1))
    else:
        weights = np.zeros((scale, 5))
        for row in range(scale):
            for index, weight in _taps((row + 0.5) / scale - 0.5).items():
                weights[row, index + 2] = weight
    size = weights.shape[1]
    kernel = np.einsum("rk,cl->rckl", weights, weights).reshape(scale**2, 1, size, size)
    bias = np.repeat(network.exit_bias, scale**2)
    convolution = Convolution(np.tile(kernel, (_COLOURS, 1, 1, 1)).astype(np.float32), bias, _COLOURS)
    half = size // 2
    pads = graph.constant("base.pads", np.array([0, 0, half, half, 0, 0, half, half], np.int64))
    padded = graph.node("Pad", [centred, pads], "base.padded", mode="edge") if half else centred
    return graph.convolution(padded, convolution, "base", pads=(0, 0))
