"""The networks in the form they are deployed in: everything that can be folded is, and plain arrays are left.

An exact rewriting of the trained network, up to rounding in the last place. Of OverNet:

* weight normalisation becomes plain weights, and the factor 255 is folded into the first and the last convolution;
* the learned scalars become numbers;
* the last convolution is split into a mix of channels and a sum over nine neighbours. Mixing channels commutes with a
  resize of each channel, so the resize is done between the two, on 9 x 3 channels instead of 64.

The mean colour is subtracted in the graph, not folded into the first convolution's bias: at the border that convolution
pads the *centred* image with zeros, which a bias cannot express.

Of the plain networks, re-parameterised convolutions become one 3x3 weight each, and 255 goes into the first convolution
and the heads.
"""

from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import nn

from overnet.network.checkpoint import folded, weights_sha256
from overnet.network.model import DenseGroup, OverNet, OverNetConfig, ResidualBlock
from overnet.network.plain import PlainNet, PlainNetConfig

Array = NDArray[np.float32]

# Images have levels 0 to 255 outside the graph, and networks are trained on 0 to 1.
LEVELS = 255.0


@dataclass(frozen=True)
class Convolution:
    """Weights, channels_out x channels_in/groups x rows x columns; a bias for each output channel, or None; groups."""

    weight: Array
    bias: Array | None
    groups: int = 1


@dataclass(frozen=True)
class DeployedBlock:
    """The arrays of a residual block, and its learned scalars as numbers."""

    expand: Convolution
    reduce: Convolution
    spatial: Convolution
    narrow: Convolution
    widen: Convolution
    residual_scale: float
    skip_scale: float


@dataclass(frozen=True)
class DeployedGroup:
    """The arrays of a local dense group: its blocks, and the reduction after each."""

    blocks: list[DeployedBlock]
    reductions: list[Convolution]


@dataclass(frozen=True)
class DeployedNetwork:
    """All arrays of an OverNet in the order they are used; images in levels 0 to 255.

    Attributes:
        mean: the mean colour in levels, 3.
        mix: the channel mix of the last convolution, (rows x columns x 3) x width x 1 x 1 without bias. Its output
            channels are in the order row, column, colour.
        exit_bias: the last convolution's bias plus the mean colour, in levels, 3.
    """

    config: OverNetConfig
    weights_sha256: str
    mean: Array
    entry: Convolution
    groups: list[DeployedGroup]
    reductions: list[Convolution]
    fusion: Convolution
    global_skip: Convolution
    residual_scale: float
    skip_scale: float
    stages: list[Convolution]
    stage_factors: list[int]
    mix: Array
    exit_bias: Array


@dataclass(frozen=True)
class DeployedPlainNetwork:
    """All arrays of a plain network in the order they are used; images in levels 0 to 255.

    With x the image, N x 3 x H x W: each of `trunk` is a 3x3 convolution with zeros around the image, followed by a
    rectifier. The head of a scale is one such convolution without a rectifier, to 3 s^2 channels. Each channel of x,
    repeated s^2 times in place (r r r r g g g g b b b b at x2), is added to it, and the sum goes through depth to space
    in the order of `torch.nn.functional.pixel_shuffle` (ONNX's DepthToSpace in mode "CRD"). The result is in levels.

    Attributes:
        trunk: the first convolution, which divides by 255, and `PlainNetConfig.depth` more.
        slopes: for "prelu", each rectifier's slope below 0 for each channel; for "relu", empty.
        heads: by scale.
    """

    config: PlainNetConfig
    weights_sha256: str
    trunk: list[Convolution]
    slopes: list[Array]
    heads: dict[int, Convolution]


def deploy_plain(model: PlainNet) -> DeployedPlainNetwork:
    """Rewrite a trained plain network into its deployed form; the model is not changed."""
    plain = folded(model)
    entry, *body = (_convolution(each) for each in [plain.entry, *plain.body])
    heads = {scale: _convolution(plain.heads[str(scale)]) for scale in plain.config.scales}
    levels = np.float32(LEVELS)
    return DeployedPlainNetwork(
        config=plain.config,
        weights_sha256=weights_sha256(model),
        trunk=[Convolution(entry.weight / levels, entry.bias), *body],
        slopes=[_array(each.weight) for each in plain.activations if isinstance(each, nn.PReLU)],
        heads={
            scale: Convolution(head.weight * levels, None if head.bias is None else head.bias * levels)
            for scale, head in heads.items()
        },
    )


Deployed = DeployedNetwork | DeployedPlainNetwork


@overload
def deploy(model: OverNet) -> DeployedNetwork: ...
@overload
def deploy(model: PlainNet) -> DeployedPlainNetwork: ...
@overload
def deploy(model: OverNet | PlainNet) -> Deployed: ...
def deploy(model: OverNet | PlainNet) -> Deployed:
    """Rewrite a trained OverNet into its deployed form; the model is not changed."""
    return deploy_plain(model) if isinstance(model, PlainNet) else _deploy_overnet(model)


def _deploy_overnet(model: OverNet) -> DeployedNetwork:
    plain = folded(model)
    entry = _convolution(plain.entry)
    exit_convolution = _convolution(plain.head.exit)
    mean = _array(plain.mean).reshape(3) * np.float32(LEVELS)
    taps = exit_convolution.weight.transpose(2, 3, 0, 1) * np.float32(LEVELS)
    return DeployedNetwork(
        config=plain.config,
        weights_sha256=weights_sha256(model),
        mean=mean,
        entry=Convolution(entry.weight / np.float32(LEVELS), entry.bias),
        groups=[
            DeployedGroup(
                blocks=[_block(block) for block in group.members if isinstance(block, ResidualBlock)],
                reductions=[_convolution(reduction) for reduction in group.reductions],
            )
            for group in plain.trunk.members
            if isinstance(group, DenseGroup)
        ],
        reductions=[_convolution(reduction) for reduction in plain.trunk.reductions],
        fusion=_convolution(plain.fusion),
        global_skip=_convolution(plain.global_skip),
        residual_scale=plain.residual_scale.scale.item(),
        skip_scale=plain.skip_scale.scale.item(),
        stages=[_convolution(stage) for stage in plain.head.stages],
        stage_factors=plain.head.stage_factors,
        mix=np.ascontiguousarray(taps.reshape(-1, taps.shape[-1], 1, 1)),
        exit_bias=_array(plain.head.exit.bias) * np.float32(LEVELS) + mean,
    )


def _block(block: ResidualBlock) -> DeployedBlock:
    return DeployedBlock(
        expand=_convolution(block.expand),
        reduce=_convolution(block.reduce),
        spatial=_convolution(block.spatial),
        narrow=_convolution(block.excitation.narrow),
        widen=_convolution(block.excitation.widen),
        residual_scale=block.residual_scale.scale.item(),
        skip_scale=block.skip_scale.scale.item(),
    )


def _convolution(module: nn.Module) -> Convolution:
    assert isinstance(module, nn.Conv2d)
    return Convolution(_array(module.weight), _array(module.bias), module.groups)


def _array(tensor: Any) -> Array:
    array: Array = tensor.detach().cpu().float().numpy().copy()
    return array
