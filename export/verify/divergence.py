"""The search for the first tensor in which a graph differs from its reference."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from overnet.export.verify.declared_types import visit_tensors
from overnet.network.deploy import LEVELS
from overnet.network.family import Network
from overnet.network.model import DenseGroup, OverNet, ResidualBlock
from overnet.network.plain import PlainNet


def first_divergence(
    model: onnx.ModelProto,
    images: NDArray[np.uint8],
    expected: Mapping[str, NDArray[Any]],
    *,
    least_signal_to_noise_db: float,
) -> str:
    """Describe the first tensor that is not finite or differs too much; where none does, the one that differs most.

    Args:
        model: a graph in any precision.
        images: N x H x W x 3 uint8.
        expected: tensors by their names in the graph; a tensor without an entry of its shape is not compared.
        least_signal_to_noise_db: the smallest ratio that is not too much, as in `signal_to_noise_db`.
    """
    farthest, smallest_db = "", math.inf
    for node, result in visit_tensors(model, images):
        if not result.is_floating_point():
            continue
        if not bool(torch.isfinite(result).all()):
            return f"{node.name} ({node.op_type}) is the first with numbers that are infinite or undefined"
        reference = expected.get(node.output[0])
        if reference is None or reference.shape != tuple(result.shape):
            continue
        decibels = signal_to_noise_db(reference, result.float().numpy())
        text = f"{node.name} ({node.op_type}), {decibels:.1f} dB from what is expected"
        if decibels < least_signal_to_noise_db:
            return f"the first to diverge is {text}"
        if decibels < smallest_db:
            farthest, smallest_db = text, decibels
    return f"the farthest is {farthest}"


def signal_to_noise_db(expected: NDArray[Any], computed: NDArray[Any]) -> float:
    """Return 10 log10 of the expected tensor's energy over the difference's; infinite where they are equal."""
    noise = float(np.sum(np.square(expected.astype(np.float64) - computed)))
    signal = float(np.sum(np.square(expected.astype(np.float64))))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def network_tensors(model: Network, image: NDArray[np.uint8], scale: float) -> dict[str, NDArray[np.float32]]:
    """Compute tensors inside the network in PyTorch.

    Args:
        image: H x W x 3 uint8.

    Returns:
        By the names in the graph: the upscaled image before it is clipped, in levels. Of an OverNet also the outputs of
        the entry, of every block and reduction, and of the fusion, and each phase of the overscaling where it has one
        stage; of a plain network those of every convolution of the trunk.
    """
    found: dict[str, Tensor] = {}
    with torch.inference_mode(), _recording(model, found):
        upscaled = model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, scale)
    # Where the tail is periodic, `shuffled` is this image, and `added` has another shape, which is not compared.
    found["shuffled"] = found["added"] = upscaled * LEVELS
    return {name: tensor.float().numpy() for name, tensor in found.items()}


@contextmanager
def _recording(model: Network, found: dict[str, Tensor]) -> Iterator[None]:
    """Record the outputs of a network's modules in `found` within the context."""

    def note(module: nn.Module, name: str, *, relu: bool = False) -> None:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            found[f"{name}.relu" if relu else name] = functional.relu(output) if relu else output

        handles.append(module.register_forward_hook(hook))

    handles: list[Any] = []
    note(model.entry, "entry")
    if isinstance(model, PlainNet):
        for index, convolution in enumerate(model.body):
            note(convolution, f"body.{index}")
    else:
        _note_group(note, model.trunk, "")
        note(model.fusion, "fusion", relu=True)
        note(model.global_skip, "global_skip", relu=True)
        if len(model.head.stages) == 1:
            note(model.head.stages[0], "overscale")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if "overscale" in found and isinstance(model, OverNet):
        factor = model.head.stage_factors[0]
        enlarged = found.pop("overscale")
        for row in range(factor):
            for column in range(factor):
                # Pixel shuffling takes phase (row, column) of each output channel from these channels.
                phase = enlarged[:, row * factor + column :: factor**2]
                found[f"tail.phase.{row}.{column}.overscale.relu"] = functional.relu(phase)


def _note_group(note: Any, group: DenseGroup, prefix: str) -> None:
    for index, (member, reduction) in enumerate(zip(group.members, group.reductions, strict=True)):
        if isinstance(member, DenseGroup):
            _note_group(note, member, f"group.{index}.")
        elif isinstance(member, ResidualBlock):
            note(member.spatial, f"{prefix}block.{index}.spatial")
            note(member, f"{prefix}block.{index}.added")
        note(reduction, f"{prefix}reduction.{index}", relu=True)
