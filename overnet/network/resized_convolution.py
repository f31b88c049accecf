"""A bicubic resize followed by a convolution to few channels, computed in the order that is fastest in training.

Mixing channels commutes with a resize of each channel. So the convolution is split into a mix of channels, which is
done first and leaves taps x colours channels (27 instead of 64), and a sum over neighbours. The sum and the resize are
then one product with a small matrix along each dimension. On a CPU, products of matrices are faster to differentiate
than PyTorch's bicubic resize and a convolution to three channels.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def resized_convolution(features: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize features with `overnet.network.model.bicubic` and convolve them with zero padding, equal up to rounding.

    Args:
        features: N x C x H x W.
        weight: K x C x rows x columns, both odd.
        bias: K.
        size: height and width to resize to.

    Returns:
        N x K x size[0] x size[1].
    """
    colours, channels, rows, columns = weight.shape
    mix = weight.permute(0, 2, 3, 1).reshape(colours * rows * columns, channels, 1, 1)
    mixed = functional.conv2d(features, mix)
    count, _, height, width = mixed.shape
    # In a coarse number format, the weights of the resize would no longer sum to 1.
    with torch.autocast(features.device.type, enabled=False):
        across = _resize_and_shift(width, size[1], columns, features.device)
        down = _resize_and_shift(height, size[0], rows, features.device)
        taps = mixed.float().view(count, colours, rows, columns, height, width).permute(0, 1, 2, 4, 3, 5)
        narrowed = taps.reshape(-1, columns * width) @ across.flatten(1).t()
        image = down.flatten(1) @ narrowed.view(count * colours, rows * height, size[1])
    return image.view(count, colours, *size) + bias.view(1, colours, 1, 1)


@lru_cache(maxsize=128)
def _resize_and_shift(length: int, resized: int, taps: int, device: torch.device) -> Tensor:
    """Return the resize of one dimension as a matrix, shifted for each tap: resized x taps x length, float32.

    Taps beyond the resized image have the weight 0, as with zero padding.
    """
    # The cached matrix serves later steps that differentiate, so it must not be an inference tensor.
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(length, device=device)
        if resized != length:
            # The rows of the identity as an image, resized in height only.
            image = functional.interpolate(
                identity[None, None], size=(resized, length), mode="bicubic", align_corners=False
            )
            identity = image[0, 0]
        padded = functional.pad(identity, (0, 0, taps // 2, taps // 2))
        return torch.stack([padded[tap : tap + resized] for tap in range(taps)], dim=1)
