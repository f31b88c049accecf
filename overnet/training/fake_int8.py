"""Training for INT8: inputs and weights of a plain network's convolutions are rounded as INT8 will round them.

Levels as in `overnet.export.precision.quantizer`: 127 on each side of 0, or 255 above it for what a rectifier gives;
one step for each output channel of a weight, and one for each channel of an input, from its largest magnitude on some
images, because the export scales the channels to one range (`overnet.export.precision.int8`). The first convolution
is not quantised. Rounding has no gradient, so that of the unrounded numbers is taken (the straight-through estimator:
Bengio et al. 2013, https://arxiv.org/abs/1308.3432), except for inputs beyond the range. What rounding adds is a share
of the step, so that the step has a gradient too, by which the network learns small ranges (Esser et al. 2020,
https://arxiv.org/abs/1902.08153).
"""

import numpy as np
import torch
from torch import Tensor

from overnet.imaging.resample import imresize
from overnet.imaging.sample_images import centre_crop, sample_photographs, synthetic_frames
from overnet.network.plain import LARGEST_CHANNEL_FACTOR, PlainNet
from overnet.types import Image

_LARGEST_LEVEL, _LARGEST_UNSIGNED = 127, 255
_SIDE = 48


class FakeInt8:
    """The quantisation of one network's convolutions; `PlainNet.quantization` of that network.

    Args:
        model: the network, whose `quantization` becomes this.
        images: H x W x 3 uint8 each, to measure ranges on; None for the centres of those of the export.
    """

    def __init__(self, model: PlainNet, images: list[Image] | None = None) -> None:
        model.quantization = self
        self._levels = _LARGEST_UNSIGNED if model.config.activation == "relu" else _LARGEST_LEVEL
        if images is None:
            photographs = [np.asarray(imresize(image, size=(72, 72)), np.uint8) for image in sample_photographs()]
            images = [*(centre_crop(image, _SIDE) for image in photographs), *synthetic_frames()]
        device = next(model.parameters()).device
        # Images of one size are measured together.
        self._images = [
            torch.from_numpy(np.stack([image for image in images if image.shape == shape]).transpose(0, 3, 1, 2))
            .to(device)
            .float()
            / 255
            for shape in dict.fromkeys(image.shape for image in images)
        ]
        self._largest: dict[str, Tensor] = {}
        self._measures = False

    def measure_ranges(self, model: PlainNet) -> None:
        """Measure each input's range with the present weights; do so after every change of these."""
        self._largest, self._measures = {}, True
        for images in self._images:
            model.upscale_to(images, [model.config.scales[0]])
        self._measures = False

    def __call__(self, name: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return a convolution's input and weight, rounded to INT8's levels.

        Args:
            name: of the input.
            x: N x channels x H x W.
            weight: channels_out x channels_in x 3 x 3.
        """
        if self._measures:
            largest = x.abs().amax((0, 2, 3))
            self._largest[name] = torch.maximum(largest, self._largest.get(name, torch.zeros_like(largest)))
            return x, weight
        # One step for each channel stands for one step for all after the export has scaled the channels to one range.
        largest = self._largest[name].view(1, -1, 1, 1)
        largest = torch.maximum(largest, largest.amax() / LARGEST_CHANNEL_FACTOR)
        scaled = weight * largest
        steps = scaled.abs().amax((1, 2, 3), keepdim=True) / _LARGEST_LEVEL
        return _rounded(x.clamp(-largest, largest), largest / self._levels), _rounded(scaled, steps) / largest


def _rounded(x: Tensor, step: Tensor) -> Tensor:
    """Round to multiples of a step, with the gradients of `x + error * step`. A step of 0 is for zeros alone."""
    step = torch.where(step > 0, step, 1.0)
    quotient = (x / step).detach()
    return x + (torch.round(quotient) - quotient) * step
