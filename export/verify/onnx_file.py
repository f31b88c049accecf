"""What an exported file has to compute: what the network does. And what it does compute, in the types it declares."""

from __future__ import annotations

import onnx
import torch

from overnet.export.verify.declared_types import visit_tensors
from overnet.network.model import OverNet
from overnet.network.reference import reference
from overnet.types import Image, Upscale


def in_network(model: OverNet, scale: int) -> tuple[Upscale, str]:
    """Upscale with PyTorch at one scale, as `reference` does; with what to call that."""
    return lambda image: reference(model, image, scale), "PyTorch"


class NotFiniteError(ArithmeticError):
    """A tensor inside a graph has numbers that are infinite or undefined."""


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
