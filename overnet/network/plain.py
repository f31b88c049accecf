"""Plain networks for real time: 3x3 convolutions and rectifiers on the input's grid, and one head for each scale.

All scales share one trunk. There is no global pooling, so tiles with a margin of `PlainNetConfig.reach` pixels give
exactly what the whole image gives. While a network is trained, each of its convolutions is re-parameterised: its weight
is the sum of a 3x3 weight, a chain of 1x1, 3x3 and 1x1 weights, and an identity. The sum is computed before each
convolution, so a step costs hardly more, and the deployed network has plain convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS = ("relu", "prelu")
# By how much a channel is scaled up for INT8 at most, where all channels share one range: that of one that is hardly
# used would make its weights in the next convolution round to 0. Export and training for INT8 agree in it.
LARGEST_CHANNEL_FACTOR = 64.0
# How large the weights are at the beginning, in PyTorch's usual initialisation.
_IDENTITY_SHARE, _HEAD_SHARE = 0.3, 0.1
_LARGEST_WIDTH, _LARGEST_DEPTH, _LARGEST_SCALE, _LARGEST_EXPANSION = 512, 64, 8, 8


@dataclass(frozen=True)
class PlainNetConfig:
    """The shape of a plain network.

    Attributes:
        width: channels of the trunk, 1 to 512.
        depth: convolutions in the trunk after the first one, 1 to 64.
        activation: "relu", or "prelu" with a learned slope for each channel.
        scales: the whole scales that there are heads for, 2 to 8, in ascending order.
        expansion: channels inside the chain of a re-parameterised convolution, in multiples of `width`, 1 to 8; 0 means
            plain convolutions.
    """

    width: int = 32
    depth: int = 10
    activation: str = "relu"
    scales: tuple[int, ...] = (2, 3, 4)
    expansion: int = 2

    def __post_init__(self) -> None:
        ranges = {
            "width": (1, _LARGEST_WIDTH),
            "depth": (1, _LARGEST_DEPTH),
            "expansion": (0, _LARGEST_EXPANSION),
        }
        for name, (low, high) in ranges.items():
            value: int = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
        if not self.scales or list(self.scales) != sorted(set(self.scales) & set(range(2, _LARGEST_SCALE + 1))):
            raise ValueError(
                f"scales are {list(self.scales)}; they must be different whole numbers from 2 to {_LARGEST_SCALE}, "
                "in ascending order"
            )

    def serves(self, scale: float) -> bool:
        """Return whether a network of this shape has a head for a scale."""
        return scale in self.scales

    @property
    def scales_text(self) -> str:
        """The scales, for messages that begin with "this network"."""
        return f"has {', '.join(map(str, self.scales))}"

    @property
    def reach(self) -> int:
        """How many pixels of the input to each side an output pixel depends on."""
        return self.depth + 2

    def multiply_accumulates(self, scale: int) -> int:
        """Return the multiply-accumulates of the deployed network for each input pixel."""
        return 9 * self.width * (3 + self.depth * self.width + 3 * scale**2)

    def activation_bytes(self, scale: int) -> int:
        """Return the memory of the deployed network's tensors in FP32, at the peak, for each input pixel."""
        # In the trunk the image and the input and output of a convolution; at the end two addends and their sum.
        return 4 * max(3 + 2 * self.width, 3 * 3 * scale**2)


class ReparameterisedConvolution(nn.Module):
    """A 3x3 convolution whose weight is the sum of a 3x3 weight, a 1x1-3x3-1x1 chain and, where it fits, an identity.

    The chain has no biases and no padding of its own: it is folded into one 3x3 weight first. So the folded convolution
    is exact at borders too.

    Args:
        channels_in, channels_out: of the convolution.
        hidden: channels inside the chain.
    """

    def __init__(self, channels_in: int, channels_out: int, hidden: int) -> None:
        super().__init__()
        direct = nn.Conv2d(channels_in, channels_out, 3)
        assert direct.bias is not None
        self.direct, self.bias = nn.Parameter(direct.weight.detach()), nn.Parameter(direct.bias.detach())
        self.narrow = nn.Parameter(nn.Linear(channels_in, hidden).weight.detach())
        self.spatial = nn.Parameter(nn.Conv2d(hidden, hidden, 3).weight.detach())
        # At first the chain adds nothing, and an identity passes on what little the 3x3 weight changes: of a deep
        # network that begins with larger weights, training can leave every rectifier at zero.
        self.widen = nn.Parameter(torch.zeros(channels_out, hidden))
        if channels_in == channels_out:
            with torch.no_grad():
                self.direct.mul_(_IDENTITY_SHARE)

    def folded_weight(self) -> Tensor:
        """Return the sum as one weight, channels_out x channels_in x 3 x 3."""
        narrowed = torch.einsum("hgyx,gi->hiyx", self.spatial, self.narrow)
        weight = self.direct + torch.einsum("oh,hiyx->oiyx", self.widen, narrowed)
        if weight.shape[0] == weight.shape[1]:
            identity = torch.eye(weight.shape[0], device=weight.device, dtype=weight.dtype)
            weight = weight + functional.pad(identity[:, :, None, None], (1, 1, 1, 1))
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """N x channels_in x H x W in, N x channels_out x H x W out; zeros around the image."""
        return functional.conv2d(x, self.folded_weight(), self.bias, padding=1)


class PlainNet(nn.Module):
    """A plain network: one trunk, one head for each scale, and the repeated input added.

    Args:
        config: the network's shape.

    Attributes:
        quantization: while training for INT8, replaces the name of an input, that input and the weight of a convolution
            by the input and the weight to compute with (`overnet.training.fake_int8`).
    """

    quantization: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, config: PlainNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PlainNetConfig()
        self.entry = self._convolution(3, config.width)
        self.body = nn.ModuleList(self._convolution(config.width, config.width) for _ in range(config.depth))
        prelu = config.activation == "prelu"
        self.activations = nn.ModuleList(
            nn.PReLU(config.width, init=0.1) if prelu else nn.ReLU() for _ in range(config.depth + 1)
        )
        self.heads = nn.ModuleDict({str(scale): self._head(scale) for scale in config.scales})

    def _convolution(self, channels_in: int, channels_out: int) -> nn.Module:
        if self.config.expansion:
            return ReparameterisedConvolution(channels_in, channels_out, self.config.expansion * self.config.width)
        return nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def _head(self, scale: int) -> nn.Module:
        """Return a head whose first images are near the repeated input."""
        head = self._convolution(self.config.width, 3 * scale**2)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if name in ("direct", "weight", "bias"):
                    parameter.mul_(0 if name == "bias" else _HEAD_SHARE)
        return head

    def features(self, x: Tensor) -> Tensor:
        """N x 3 x H x W in, RGB in [0, 1]; N x width x H x W out."""
        x = self.activations[0](self.entry(x))
        for index, convolution in enumerate(self.body):
            x = self.activations[index + 1](self._convolve(f"body.{index}", convolution, x))
        return x

    def _convolve(self, name: str, convolution: nn.Module, x: Tensor) -> Tensor:
        """Return a convolution's output, with its input and weight quantised where that is set."""
        if self.quantization is None:
            convolved: Tensor = convolution(x)
            return convolved
        weight: Any = convolution.weight if isinstance(convolution, nn.Conv2d) else None
        if isinstance(convolution, ReparameterisedConvolution):
            weight = convolution.folded_weight()
        bias: Any = convolution.bias
        return functional.conv2d(*self.quantization(name, x, weight), bias, padding=1)

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """Upscale images.

        Args:
            x: N x 3 x H x W, RGB in [0, 1], floating point.
            scale: one of the configuration's.

        Returns:
            N x 3 x (H * scale) x (W * scale), same dtype; not clipped, so some values are slightly outside [0, 1].

        Raises:
            ValueError: there is no head for the scale, or `x` is not N x 3 x H x W.
        """
        return self.upscale_to(x, [scale])[0]

    def upscale_to(self, x: Tensor, scales: list[float]) -> list[Tensor]:
        """Upscale images to several scales, with the features computed once; otherwise as `forward`."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"the input has shape {tuple(x.shape)}; it must be N x 3 x H x W")
        for scale in scales:
            if not self.config.serves(scale):
                raise ValueError(f"scale is {scale:g}; this network {self.config.scales_text}")
        features = self.features(x)
        images = []
        for scale in map(int, scales):
            # In the order of pixel_shuffle's channels, each colour repeated is the input enlarged by repetition.
            repeated = x.repeat_interleave(scale**2, dim=1)
            images.append(
                functional.pixel_shuffle(self._convolve("heads", self.heads[str(scale)], features) + repeated, scale)
            )
        return images
