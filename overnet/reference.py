"""What every other form of a network is compared with: what it computes in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from overnet.model import OverNet


def reference(model: OverNet, picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Upscale a picture as a whole with PyTorch, as the original does: clipped and rounded at the end.

    Parameters
    ----------
    model : computes where its weights are, in their format.
    picture : H x W x 3 uint8, RGB.
    scale : 1 to the model's overscale factor.

    Returns
    -------
    round(H * scale) x round(W * scale) x 3 uint8.
    """
    device = next(model.parameters()).device
    batch = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        upscaled = model(batch, scale)[0]
        levels = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(levels.cpu().numpy())
