"""The comparison of an ONNX file with the network it was made from."""

from pathlib import Path

import onnx
import torch

from overnet.errors import ArtifactError
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults, in_openvino
from overnet.export.verify.declared_types import run_exactly, visit_tensors
from overnet.export.verify.divergence import first_divergence, network_tensors
from overnet.network.family import Network
from overnet.network.model import reference
from overnet.types import Image, Upscale


class NotFiniteError(ArithmeticError):
    """A tensor inside a graph has infinite or undefined numbers."""


def check_onnx_file(
    file: Path, graph: onnx.ModelProto, exact: onnx.ModelProto, model: Network, images: list[Image], *, name: str
) -> Parity:
    """Compare an ONNX file with the network, in OpenVINO and in its declared types.

    Args:
        file: the ONNX file.
        graph: its content.
        exact: the same graph in FP32.
        model: the network it was made from.
        images: H x W x 3 uint8 each, at least one.
        name: the file's name in messages.

    Returns:
        The worse of the two measurements.

    Raises:
        ArtifactError: the difference is too large, or a number inside is not finite. The message names the first tensor
            that diverges.
    """
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    precision, scale = properties["overnet.precision"], float(properties["overnet.scale"])
    network, declared = in_network(model, scale), in_declared_types(graph)
    expected = ReferenceResults(network, images)
    try:
        parity = expected.compare(*in_openvino(file)).worse(expected.compare(*declared))
    except NotFiniteError as error:
        raise ArtifactError(f"{name} is refused: {error}") from error
    tolerance = TOLERANCES[precision]
    if tolerance.holds(parity):
        return parity
    # The cause is looked for on the image with the largest error. The FP32 graph has every tensor by its name; where
    # that graph is wrong itself, the network's own tensors show it.
    worst = min(images, key=lambda image: ReferenceResults(network, [image]).compare(*declared).psnr_db)
    tensors = {**run_exactly(exact, worst[None], None), **network_tensors(model, worst, scale)}
    cause = first_divergence(graph, worst[None], tensors, least_signal_to_noise_db=tolerance.diverging_db)
    raise ArtifactError(f"{tolerance.refusal(name, parity)}; {cause}")


def in_network(model: Network, scale: float) -> tuple[Upscale, str]:
    """Return a function that upscales with `overnet.network.model.reference`, and PyTorch's name."""
    return lambda image: reference(model, image, scale), "PyTorch"


def in_declared_types(model: onnx.ModelProto) -> tuple[Upscale, str]:
    """Return a function that runs a graph with every tensor rounded to its declared type, and what to call that.

    The function raises `NotFiniteError` where a tensor is not finite, whether or not that shows in the result.
    """

    def upscale(image: Image) -> Image:
        for node, result in visit_tensors(model, image[None]):
            if result.is_floating_point() and not bool(torch.isfinite(result).all()):
                raise NotFiniteError(f"{node.name} ({node.op_type}) has numbers that are infinite or undefined")
            last = result
        upscaled: Image = last[0].numpy()
        return upscaled

    return upscale, "its declared types"
