"""The check of an ONNX file against the network it was made from."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from overnet.errors import ArtifactError
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults, Tolerance, in_openvino
from overnet.export.verify.declared_types import run_exactly, visit_tensors
from overnet.export.verify.divergence import first_divergence, network_tensors
from overnet.network.model import OverNet
from overnet.network.reference import reference
from overnet.types import Image, Upscale


class NotFiniteError(ArithmeticError):
    """A tensor inside a graph has numbers that are infinite or undefined."""


def check_onnx_file(
    file: Path, graph: onnx.ModelProto, exact: onnx.ModelProto, model: OverNet, images: list[Image], *, name: str
) -> Parity:
    """Compare an ONNX file with the network, in OpenVINO and in its declared types, and refuse it if it is too far.

    Args:
        file: the file as it is to be delivered.
        graph: what is in it.
        exact: the same in FP32.
        model: the network it was made from.
        images: H x W x 3 uint8 each, at least one.
        name: what the file is going to be called, for messages.

    Raises:
        ArtifactError: it is too far, or a number inside is not finite; with the first tensor that diverges.
    """
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    precision, scale = properties["overnet.precision"], int(properties["overnet.scale"])
    reference_results = ReferenceResults(in_network(model, scale), images)
    try:
        parity = reference_results.compare(*in_openvino(file)).worse(
            reference_results.compare(*in_declared_types(graph))
        )
    except NotFiniteError as error:
        raise ArtifactError(f"{name} is refused: {error}") from error
    gate = TOLERANCES[precision]
    if gate.holds(parity):
        return parity
    raise ArtifactError(f"{gate.refusal(name, parity)}; {_cause(graph, exact, model, scale, images, gate)}")


def _cause(
    graph: onnx.ModelProto, exact: onnx.ModelProto, model: OverNet, scale: int, images: list[Image], gate: Tolerance
) -> str:
    """Where it goes wrong, on the image that is hardest for it."""
    upscale, label = in_declared_types(graph)
    network = in_network(model, scale)
    worst = min(images, key=lambda image: ReferenceResults(network, [image]).compare(upscale, label).psnr_db)
    # The FP32 graph has every tensor by its name; where it is wrong itself, the network's own tensors tell.
    expected = {**run_exactly(exact, worst[None], None), **network_tensors(model, worst, scale)}
    return first_divergence(graph, worst[None], expected, least_signal_to_noise_db=gate.diverging_db)


def in_network(model: OverNet, scale: int) -> tuple[Upscale, str]:
    """Upscale with PyTorch at one scale, as `reference` does; with what to call that."""
    return lambda image: reference(model, image, scale), "PyTorch"


def in_declared_types(model: onnx.ModelProto) -> tuple[Upscale, str]:
    """Run a graph with every tensor rounded to the type that it declares; with what to call that.

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
