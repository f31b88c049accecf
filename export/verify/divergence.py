"""Where a graph leaves the path of what it was made from: the first tensor that differs."""

from __future__ import annotations

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
from overnet.network.model import DenseGroup, OverNet, ResidualBlock


def first_divergence(
    model: onnx.ModelProto,
    images: NDArray[np.uint8],
    expected: Mapping[str, NDArray[Any]],
    *,
    least_signal_to_noise_db: float,
) -> str:
    """Describe the first tensor that is not finite, or too far from what is expected; if none is, the farthest.

    Args:
        model: the graph in question.
        images: N x H x W x 3 uint8.
        expected: tensors by their names in the graph; those without an entry, or of another shape, are passed over.
        least_signal_to_noise_db: 10 log10 of the expected tensor's energy over the difference's.
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
    """10 log10 of the expected tensor's energy over the difference's; infinite where they are equal."""
    noise = float(np.sum(np.square(expected.astype(np.float64) - computed)))
    signal = float(np.sum(np.square(expected.astype(np.float64))))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def network_tensors(model: OverNet, image: NDArray[np.uint8], scale: int) -> dict[str, NDArray[np.float32]]:
    """Tensors inside the network in PyTorch, by the names that they have in the graph.

    Args:
        image: H x W x 3 uint8.

    Returns:
        The output of the entry, of every block and reduction, of the fusion, of each phase of the overscaling where
        that is done in one stage, and of the whole before it is clipped, in levels.
    """
    found: dict[str, Tensor] = {}
    with torch.inference_mode(), _recording(model, found):
        upscaled = model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, scale)
    # Where the tail works on the input's grid, the result is put together from phases; `added` is before that.
    found["shuffled"] = found["added"] = upscaled * LEVELS
    return {name: tensor.float().numpy() for name, tensor in found.items()}


@contextmanager
def _recording(model: OverNet, found: dict[str, Tensor]) -> Iterator[None]:
    """Have the modules of a network note their outputs while the block runs."""

    def note(module: nn.Module, name: str, *, relu: bool = False) -> None:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            found[f"{name}.relu" if relu else name] = functional.relu(output) if relu else output

        handles.append(module.register_forward_hook(hook))

    handles: list[Any] = []
    note(model.entry, "entry")
    _note_group(note, model.trunk, "")
    note(model.fusion, "fusion", relu=True)
    note(model.global_skip, "global_skip", relu=True)
    stages = list(model.head.stages)
    if len(stages) == 1:
        note(stages[0], "overscale")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if "overscale" in found:
        factor = model.head.stage_factors[0]
        enlarged = found.pop("overscale")
        for row in range(factor):
            for column in range(factor):
                # Pixel shuffling takes output phase (row, column) of each channel from these channels.
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
