"""The network OverNet (Behjati et al., WACV 2021), its overscaling head for any feature extractor, and `reference`.

Shapes in comments are N x C x H x W; "u" is the overscale factor, as in the paper.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from overnet.files.onnx_metadata import scaled_size
from overnet.network.resized_convolution import resized_convolution

# Mean colour of DIV2K's training images in [0, 1], which is subtracted from the input and added to the output.
RGB_MEAN = (0.4488, 0.4371, 0.4040)

# The overscale factors for which the original defines an upsampler.
OVERSCALE_FACTORS = (2, 3, 4, 5, 8)

# A checkpoint states these numbers, and may be damaged or hostile.
_LARGEST = {"width": 1024, "groups": 32, "blocks": 32, "expansion": 16, "squeeze": 1024}


@dataclass(frozen=True)
class OverNetConfig:
    """The shape of an OverNet. The defaults are the original's; only `overscale` differs between its models.

    Attributes:
        overscale: factor by which the head enlarges the features before it resizes them down: 2, 3, 4, 5 or 8. The
            released models use one more than their scale.
        width: channels of the trunk, up to 1024; a multiple of 4 (the overscaling convolution has 4 groups) and of
            `squeeze`.
        groups: number of global dense groups, 1 to 32.
        blocks: number of residual blocks in each group, 1 to 32.
        expansion: channels before a residual block's ReLU, in multiples of `width`, 1 to 16.
        bottleneck: channels after it, as a share of `width`.
        squeeze: `width` divided by the channels of the squeeze-and-excitation layer.
        weight_normalised: whether convolutions are stored as direction and length, as in the original, or as plain
            weights, as after folding.
    """

    overscale: int = 5
    width: int = 64
    groups: int = 3
    blocks: int = 3
    expansion: int = 6
    bottleneck: float = 0.8
    squeeze: int = 16
    weight_normalised: bool = True

    def __post_init__(self) -> None:
        if self.overscale not in OVERSCALE_FACTORS:
            raise ValueError(f"overscale is {self.overscale}; it must be one of {OVERSCALE_FACTORS}")
        for name, largest in _LARGEST.items():
            value: int = getattr(self, name)
            if not 1 <= value <= largest:
                raise ValueError(f"{name} is {value}; it must be from 1 to {largest}")
        if self.width % 4 or self.width % self.squeeze:
            raise ValueError(f"width is {self.width}; it must be a multiple of 4 and of squeeze ({self.squeeze})")
        if not 0 < self.bottleneck <= 1 or self.bottleneck_width < 1:
            raise ValueError(f"bottleneck is {self.bottleneck}; it must leave 1 to {self.width} channels")

    def serves(self, scale: float) -> bool:
        """Return whether a network of this shape has a scale."""
        return 1 <= scale <= self.overscale

    @property
    def reach(self) -> int | None:
        """None: an output pixel depends on the whole input, by means over it."""
        return None

    @property
    def scales_text(self) -> str:
        """The scales, for messages that begin with "this network"."""
        return f"goes from 1 to {self.overscale}"

    @property
    def expanded_width(self) -> int:
        """Channels after a residual block's first convolution."""
        return self.width * self.expansion

    @property
    def bottleneck_width(self) -> int:
        """Channels after a residual block's second convolution."""
        return int(self.width * self.bottleneck)


def _convolution(
    channels_in: int, channels_out: int, kernel: int, *, groups: int = 1, weight_normalised: bool = True
) -> nn.Conv2d:
    """Return a convolution with bias that keeps height and width, weight-normalised or not."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups)
    if not weight_normalised:
        return convolution
    normalised = weight_norm(convolution)
    assert isinstance(normalised, nn.Conv2d)
    return normalised


class LearnedScale(nn.Module):
    """A product with one learned number."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the learned number; same shape."""
        return x * self.scale


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: factors for the channels, computed from their means over the whole image."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, width // squeeze, 1)
        self.widen = nn.Conv2d(width // squeeze, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x width x H x W in, the same out, each channel scaled by a factor in (0, 1)."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.widen(functional.relu(self.narrow(mean))))


class ResidualBlock(nn.Module):
    """Widen, ReLU, narrow, 3x3, squeeze-and-excitation; then a learned mix with the block's input."""

    def __init__(self, config: OverNetConfig) -> None:
        super().__init__()
        normalised = config.weight_normalised
        self.expand = _convolution(config.width, config.expanded_width, 1, weight_normalised=normalised)
        self.reduce = _convolution(config.expanded_width, config.bottleneck_width, 1, weight_normalised=normalised)
        self.spatial = _convolution(config.bottleneck_width, config.width, 3, weight_normalised=normalised)
        self.excitation = SqueezeExcitation(config.width, config.squeeze)
        self.residual_scale = LearnedScale()
        self.skip_scale = LearnedScale()

    def forward(self, x: Tensor) -> Tensor:
        """N x width x H x W in and out."""
        y = self.spatial(self.reduce(functional.relu(self.expand(x), inplace=True)))
        mixed: Tensor = self.residual_scale(self.excitation(y)) + self.skip_scale(x)
        return mixed


class DenseGroup(nn.Module):
    """A sequence of members; after each, the input and all outputs are concatenated and reduced to `width` channels.

    A local group has residual blocks as members, and the trunk has local groups.
    """

    def __init__(self, members: list[nn.Module], config: OverNetConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.reductions = nn.ModuleList(
            _convolution(config.width * (k + 2), config.width, 1, weight_normalised=config.weight_normalised)
            for k in range(len(members))
        )

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return the reduced output after each member, N x width x H x W as the input."""
        gathered, reduced, outputs = x, x, []
        for member, reduction in zip(self.members, self.reductions, strict=True):
            gathered = torch.cat([gathered, member(reduced)], dim=1)
            reduced = functional.relu(reduction(gathered))
            outputs.append(reduced)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the reduced output after the last member, N x width x H x W as the input."""
        return self.outputs(x)[-1]


class OverscalingHead(nn.Module):
    """The paper's reconstruction module, which makes an image of any size from the features of any extractor.

    It overscales the features, resizes them down, and applies the last convolution.

    Args:
        width: channels of the features; a multiple of 4.
        overscale: factor of the enlarged grid: 2, 3, 4, 5 or 8.
        channels_out: channels of the image, 3 for RGB.
        weight_normalised: as in `OverNetConfig`.
    """

    def __init__(self, width: int, overscale: int, *, channels_out: int = 3, weight_normalised: bool = True) -> None:
        super().__init__()
        if overscale not in OVERSCALE_FACTORS:
            raise ValueError(f"overscale is {overscale}; it must be one of {OVERSCALE_FACTORS}")
        self.overscale = overscale
        # Factors of 4 and 8 take two and three stages of 2; the others take one.
        self.stage_factors = [2] * {2: 1, 4: 2, 8: 3}[overscale] if overscale in (2, 4, 8) else [overscale]
        self.stages = nn.ModuleList(
            _convolution(width, width * factor**2, 3, groups=4, weight_normalised=weight_normalised)
            for factor in self.stage_factors
        )
        self.exit = _convolution(width, channels_out, 3, weight_normalised=weight_normalised)

    def overscaled(self, features: Tensor) -> Tensor:
        """N x width x H x W in, N x width x uH x uW out."""
        for stage, factor in zip(self.stages, self.stage_factors, strict=True):
            features = functional.pixel_shuffle(functional.relu(stage(features), inplace=True), factor)
        return features

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """N x width x H x W in, N x channels_out x size[0] x size[1] out."""
        overscaled = self.overscaled(features)
        if self.training:
            assert self.exit.bias is not None
            # The same up to rounding, and faster to differentiate. Its matrices would be large for whole images.
            return resized_convolution(overscaled, self.exit.weight, self.exit.bias, size)
        image: Tensor = self.exit(bicubic(overscaled, size))
        return image


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as the network does: bicubic, a = -0.75, half-pixel centres, edges clamped, no antialiasing.

    N x C x H x W in, N x C x size[0] x size[1] out, same dtype. At equal size, the input is returned.
    """
    if x.shape[-2:] == torch.Size(size):
        return x
    return functional.interpolate(x, size=size, mode="bicubic", align_corners=False)


class OverNet(nn.Module):
    """The network, which serves any scale from 1 to the overscale factor with one set of weights.

    Args:
        config: the shape of the network; by default the original's with overscale 5.
    """

    mean: Tensor

    def __init__(self, config: OverNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OverNetConfig()
        normalised = config.weight_normalised
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.entry = _convolution(3, config.width, 3, weight_normalised=normalised)
        self.trunk = DenseGroup(
            [DenseGroup([ResidualBlock(config) for _ in range(config.blocks)], config) for _ in range(config.groups)],
            config,
        )
        self.fusion = _convolution(config.width * config.groups, config.width, 1, weight_normalised=normalised)
        self.global_skip = nn.Conv2d(config.width, config.width, 1)
        self.residual_scale = LearnedScale()
        self.skip_scale = LearnedScale()
        self.head = OverscalingHead(config.width, config.overscale, weight_normalised=normalised)

    def features(self, centred: Tensor) -> Tensor:
        """Extract features: N x 3 x H x W with the mean subtracted in, N x width x H x W out."""
        entry = self.entry(centred)
        fused = functional.relu(self.fusion(torch.cat(self.trunk.outputs(entry), dim=1)))
        skip = functional.relu(self.global_skip(entry.mean(dim=(2, 3), keepdim=True)))
        features: Tensor = self.residual_scale(fused) + self.skip_scale(skip)
        return features

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """Upscale images.

        Args:
            x: N x 3 x H x W, RGB in [0, 1], floating point.
            scale: 1 to the overscale factor, whole or fractional.

        Returns:
            N x 3 x round(H * scale) x round(W * scale), same dtype; not clipped, so slightly outside [0, 1].

        Raises:
            ValueError: the scale is out of range, or `x` is not N x 3 x H x W.
        """
        return self.upscale_to(x, [scale])[0]

    def upscale_to(self, x: Tensor, scales: list[float]) -> list[Tensor]:
        """Upscale images to several scales, with the features computed once; otherwise as `forward`."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"the input has shape {tuple(x.shape)}; it must be N x 3 x H x W")
        for scale in scales:
            if not self.config.serves(scale):
                raise ValueError(
                    f"scale is {scale}; it must be from 1 to the overscale factor, {self.config.overscale}"
                )
        centred = x - self.mean
        features = self.features(centred)
        sizes = [scaled_size(x.shape[2], x.shape[3], scale) for scale in scales]
        return [self.head(features, size) + bicubic(centred, size) + self.mean for size in sizes]


def reference(model: nn.Module, image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Upscale an image as a whole with PyTorch: what every other form of a network is compared with.

    Args:
        model: an `OverNet` or any network that is called with images and a scale as it is; it computes where its
            weights are, in their format.
        image: H x W x 3 uint8, RGB.
        scale: one that the model has.

    Returns:
        round(H * scale) x round(W * scale) x 3 uint8, clipped and rounded at the end.
    """
    upscaled: NDArray[np.uint8] = reference_batch(model, image[None], scale)[0]
    return upscaled


def reference_batch(model: nn.Module, images: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Upscale images of one size at once; otherwise as `reference`, N x H x W x 3 in and N x ... x 3 out."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        batch = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        upscaled = model(batch / 255, scale)
        levels = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(levels.cpu().numpy())
