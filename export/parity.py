"""What an exported file has to compute: what the network does. And what it does compute, in the types it declares."""

from __future__ import annotations

import onnx
import torch

from overnet.export.comparison import Picture, Upscale
from overnet.export.evaluator import visit_tensors
from overnet.model import OverNet


def reference(model: OverNet, picture: Picture, scale: float) -> Picture:
    """Upscale a picture with PyTorch, as the original does: clipped and rounded at the end.

    Parameters
    ----------
    picture : H x W x 3 uint8, RGB.

    Returns
    -------
    round(H * scale) x round(W * scale) x 3 uint8.
    """
    with torch.inference_mode():
        upscaled = model(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255, scale)[0]
        levels: Picture = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return levels


def in_network(model: OverNet, scale: int) -> tuple[Upscale, str]:
    """Upscale with PyTorch at one scale, as `reference` does; with what to call that."""
    return lambda picture: reference(model, picture, scale), "PyTorch"


class NotFiniteError(ArithmeticError):
    """A tensor inside a graph has numbers that are infinite or undefined."""


def in_declared_types(model: onnx.ModelProto) -> tuple[Upscale, str]:
    """Run a graph with every tensor rounded to the type that it declares; with what to call that.

    The function raises `NotFiniteError` where a tensor is not finite, whether or not that shows in the result.
    """

    def upscale(picture: Picture) -> Picture:
        for node, result in visit_tensors(model, picture[None]):
            if result.is_floating_point() and not bool(torch.isfinite(result).all()):
                raise NotFiniteError(f"{node.name} ({node.op_type}) has numbers that are infinite or undefined")
            last = result
        upscaled: Picture = last[0].numpy()
        return upscaled

    return upscale, "its declared types"
