"""What every other form of a network is compared with: what it computes in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from overnet.network.model import OverNet


def reference(model: OverNet, image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Upscale an image as a whole with PyTorch, as the original does: clipped and rounded at the end.

    Args:
        model: computes where its weights are, in their format.
        image: H x W x 3 uint8, RGB.
        scale: 1 to the model's overscale factor.

    Returns:
        round(H * scale) x round(W * scale) x 3 uint8.
    """
    upscaled: NDArray[np.uint8] = reference_batch(model, image[None], scale)[0]
    return upscaled


def reference_batch(model: OverNet, images: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Upscale images of one size at once; otherwise as `reference`, N x H x W x 3 in and N x ... x 3 out."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        upscaled = model(batch / 255, scale)
        levels = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(levels.cpu().numpy())
