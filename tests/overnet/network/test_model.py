import numpy as np
import pytest
import torch
from torch import nn

from overnet.files.onnx_metadata import scaled_size
from overnet.network.model import OVERSCALE_FACTORS, OverNet, OverNetConfig, OverscalingHead, reference

SMALL = {"width": 16, "groups": 2, "blocks": 2, "expansion": 2, "squeeze": 4}


@pytest.mark.parametrize(("overscale", "parameters"), [(3, 929_300), (4, 919_956), (5, 1_078_804)])
def test_parameter_counts_are_the_originals(overscale, parameters):
    model = OverNet(OverNetConfig(overscale=overscale))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


@pytest.mark.parametrize("overscale", OVERSCALE_FACTORS)
@pytest.mark.parametrize("scale", [1, 1.3, 2])
def test_every_scale_up_to_the_overscale_factor(overscale, scale):
    model = OverNet(OverNetConfig(overscale=overscale, **SMALL)).eval()
    with torch.no_grad():
        upscaled = model(torch.rand(2, 3, 13, 10), scale)
    assert upscaled.shape == (2, 3, *scaled_size(13, 10, scale))


def test_the_overscale_factor_itself_needs_no_resize():
    model = OverNet(OverNetConfig(overscale=3, **SMALL)).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 5, 7), 3).shape == (1, 3, 15, 21)


@pytest.mark.parametrize("scale", [0.9, 5.01, float("nan")])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(ValueError, match="from 1 to the overscale factor, 5"):
        OverNet(OverNetConfig(**SMALL))(torch.rand(1, 3, 8, 8), scale)


def test_inputs_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="N x 3 x H x W"):
        OverNet(OverNetConfig(**SMALL))(torch.rand(3, 8, 8), 2)


@pytest.mark.parametrize(
    "wrong",
    [{"overscale": 6}, {"width": 30}, {"groups": 0}, {"blocks": 0}, {"bottleneck": 0}, {"bottleneck": 1.5}],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OverNetConfig(**wrong)


@pytest.mark.parametrize("scale", [1.5, 2, 3])
def test_the_head_serves_another_backbone_and_learns(scale):
    """The head on three plain convolutions: its gradient reaches the backbone, and a step lowers the loss."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    head = OverscalingHead(8, 4)
    low, high = torch.rand(2, 3, 9, 12), torch.rand(2, 3, *scaled_size(9, 12, scale))
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 1e-2)
    losses = []
    for _ in range(20):
        loss = (head(backbone(low), high.shape[-2:]) - high).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert backbone[0].weight.grad.abs().max() > 0
    assert losses[-1] < 0.8 * losses[0]


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = OverNet(OverNetConfig(**SMALL))
    model(torch.rand(1, 3, 8, 8), 2.5).abs().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch, scale):
        size = (round(side * scale) for side in batch.shape[2:])
        return torch.tensor([-0.5, 100.6 / 255, 2.0]).view(1, 3, 1, 1).expand(1, 3, *size)


def test_upscaled_images_are_clipped_and_rounded():
    image = reference(Constant(), np.zeros((2, 3, 3), np.uint8), 2)
    assert (image.dtype, image.shape) == (np.uint8, (4, 6, 3))
    assert (image == [0, 101, 255]).all()
    assert image.flags.c_contiguous
