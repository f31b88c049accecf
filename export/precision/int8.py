"""The conversion of an FP32 graph to INT8 on calibration images."""

from dataclasses import dataclass, replace

import numpy as np
import onnx

from overnet.export.precision.calibration import Pair, pairs_of
from overnet.export.precision.convert import beyond_notes
from overnet.export.precision.fp16_range import nodes_beyond_half
from overnet.export.precision.half import to_half
from overnet.export.precision.layer_choice import choose_layers
from overnet.export.precision.quantizer import largest_inputs
from overnet.export.verify.declared_types import visit_tensors
from overnet.imaging.sample_images import synthetic_frames
from overnet.network.deploy import Convolution, DeployedPlainNetwork
from overnet.network.plain import LARGEST_CHANNEL_FACTOR
from overnet.types import Image, Progress


@dataclass(frozen=True)
class Calibration:
    """The images for INT8, and the loss allowed on them.

    Attributes:
        images: H x W x 3 uint8 each, from `overnet.export.precision.calibration.calibration_images`.
        remarks: on files that were left out.
        max_loss_db: the largest loss of PSNR on luma against the ground truth, in dB.
        signed: whether all levels have a sign, as TensorRT needs it.
    """

    images: list[Image]
    remarks: list[str]
    max_loss_db: float
    signed: bool = False


def equalized(network: DeployedPlainNetwork, graph: onnx.ModelProto, images: list[Image]) -> DeployedPlainNetwork:
    """Return the network with all channels of an input of its convolutions scaled to the same largest magnitude.

    One INT8 step then fits them all. A rectifier lets positive factors through: a channel can be multiplied by one in
    the convolution before it, and divided by it in the next, and the network computes the same. Weights have a step for
    each output channel, so that the factor costs nothing there. Cross-layer equalisation: Nagel et al. 2019,
    https://arxiv.org/abs/1906.04721.

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


def range_images(pairs: list[Pair]) -> list[Image]:
    """Return the images whose activations INT8 must hold: the pairs' low-resolution images, and synthetic frames.

    Text has larger activations than photographs. Noise and checkerboards of single pixels have far larger ones: a range
    that held these too would cost 1.7 to 2.6 dB on photographs, so theirs are clipped instead.
    """
    return [*(pair.low for pair in pairs), *synthetic_frames()]


def quantized(
    exact: onnx.ModelProto, scale: float, images: list[Image], calibration: Calibration, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    """Convert a graph to INT8, and to FP16 where that costs too much; return it with notes for the user.

    Args:
        exact: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        images: H x W x 3 uint8 each: nodes whose numbers on them come near FP16's largest stay in FP32.
        progress: called with each step.

    Raises:
        InputError: no layer can be INT8 within the allowed loss.
    """
    progress("calibrating", 0, 0)
    pairs = pairs_of(calibration.images, scale)
    beyond = nodes_beyond_half(exact, images)
    choice = choose_layers(
        exact,
        largest_inputs(exact, range_images(pairs)),
        pairs,
        scale,
        max_loss_db=calibration.max_loss_db,
        keep=frozenset(beyond),
        progress=progress,
        signed=calibration.signed,
    )
    notes = choice.notes(len(pairs))
    return to_half(choice.model, "fp16", keep=set(beyond)), [*notes, *calibration.remarks, *beyond_notes(beyond)]
