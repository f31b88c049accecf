"""Scaling of a plain network's channels to one range, so that one INT8 step fits them all.

A rectifier lets positive factors through: a channel can be multiplied by one in the convolution before it, and divided
by it in the next, and the network computes the same. Weights have a step for each output channel, so that the factor
costs nothing there. Cross-layer equalisation: Nagel et al. 2019, https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from overnet.export.verify.declared_types import visit_tensors
from overnet.network.deploy import Convolution, DeployedPlainNetwork
from overnet.network.plain import LARGEST_CHANNEL_FACTOR
from overnet.types import Image


def equalized(network: DeployedPlainNetwork, graph: onnx.ModelProto, images: list[Image]) -> DeployedPlainNetwork:
    """Return the network with all channels of an input of its convolutions scaled to the same largest magnitude.

    Args:
        network: computes the same as the result, up to rounding.
        graph: of the network, in FP32.
        images: H x W x 3 uint8 each, to measure the magnitudes on.
    """
    largest = [np.zeros(len(convolution.weight), np.float32) for convolution in network.trunk]
    for image in images:
        rectified = [result for node, result in visit_tensors(graph, image[None]) if node.op_type in ("Relu", "PRelu")]
        for index, result in enumerate(rectified):
            largest[index] = np.maximum(largest[index], result.abs().amax((0, 2, 3)).numpy())
    trunk, heads, before = [], network.heads, np.ones(3, np.float32)
    for convolution, magnitudes in zip(network.trunk, largest, strict=True):
        highest = max(float(magnitudes.max()), np.finfo(np.float32).tiny)
        factors = highest / np.maximum(magnitudes, highest / LARGEST_CHANNEL_FACTOR)
        weight = convolution.weight * factors[:, None, None, None] / before[None, :, None, None]
        trunk.append(Convolution(weight, None if convolution.bias is None else convolution.bias * factors))
        before = factors
    heads = {scale: Convolution(head.weight / before[None, :, None, None], head.bias) for scale, head in heads.items()}
    return replace(network, trunk=trunk, heads=heads)
