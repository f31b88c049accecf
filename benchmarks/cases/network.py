"""The network in PyTorch with the weights of a benchmarked model, and its arithmetic."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnet.errors import InputError, printable, require
from overnet.evaluation.model_choice import choose_model
from overnet.files.onnx_metadata import read_artifact
from overnet.runtime.backends.base import model_kind
from overnet.weights import MODEL_NAMES, bundled_checkpoint, bundled_folder, checkpoint_of_folder

if TYPE_CHECKING:
    from overnet.network.family import Network

# The side of the image for counting, large enough that operations done once per image are negligible.
_COUNTED_SIDE = 256


def checkpoint_of(model: Path | None, scale: int) -> Path:
    """Return the checkpoint with a model's weights, so that PyTorch can run the network that the backends run.

    Args:
        model: a checkpoint, an ONNX file, an engine or a folder of these; None for the bundled model.

    Raises:
        InputError: there is no such model, or it was not exported from a bundled checkpoint.
    """
    bundled = checkpoint_of_folder(model or bundled_folder())
    if bundled is not None:
        return bundled
    assert model is not None
    if model.is_file() and model_kind(model) == "checkpoint":
        return model
    artifact = choose_model(model, scale, None).artifact
    for name in MODEL_NAMES:
        known = read_artifact(next(iter(sorted(bundled_folder(name).glob("*.onnx")))))
        if artifact is not None and artifact.weights_sha256 == known.weights_sha256:
            return bundled_checkpoint(name)
    raise InputError(
        f"{printable(model.name)} has other weights than the bundled checkpoints: to see PyTorch run them, give "
        "the checkpoint itself as the model"
    )


def load_network(checkpoint: Path, scale: int) -> Network:
    """Load a checkpoint's network on the CPU and check that it supports a scale.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: the network does not have the scale.
    """
    from overnet.network.checkpoint import folded, load_checkpoint

    network = folded(load_checkpoint(checkpoint))
    if not network.config.serves(scale):
        raise InputError(f"{printable(checkpoint.name)} is not for x{scale}: its network {network.config.scales_text}")
    return network


def multiply_accumulates_per_pixel(network: Network, scale: int) -> float:
    """Count the multiply-accumulates of all convolutions per input pixel, from shapes alone: nothing is computed."""
    torch = require("torch", extra="torch", purpose="counting a network's arithmetic")
    counted = 0

    def count(module: Any, _inputs: Any, output: Any) -> None:
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    shapes = copy.deepcopy(network).to("meta")
    for module in shapes.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes(torch.zeros(1, 3, _COUNTED_SIDE, _COUNTED_SIDE, device="meta"), scale)
    return counted / _COUNTED_SIDE**2
