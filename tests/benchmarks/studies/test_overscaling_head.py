from typing import cast

import pytest

pytest.importorskip("torch")

import torch
from torch.utils.flop_counter import FlopCounterMode

from overnet.benchmarks.studies.overscaling_head import OverscaledTrunk, head_costs
from overnet.network.family import NETWORKS
from overnet.network.model import OverscalingHead
from overnet.network.plain import PlainNet, PlainNetConfig

CONFIG = cast(PlainNetConfig, NETWORKS["realtime"])


@pytest.mark.parametrize("scale", [1, 2, 2.5, 5])
def test_one_set_of_weights_serves_all_scales(scale):
    model = OverscaledTrunk(PlainNet(CONFIG)).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 8, 10), scale).shape == (1, 3, int(8 * scale), int(10 * scale))
    assert not any(name.startswith("trunk.heads") for name in model.state_dict())


@pytest.mark.parametrize("scale", [2, 4])
def test_costs_are_those_of_the_layers(scale):
    head = OverscalingHead(CONFIG.width, 5, weight_normalised=False).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        head(torch.rand(1, CONFIG.width, 8, 8), (8 * scale, 8 * scale))
    resize = CONFIG.width * 4 * (scale * 5 + scale**2)  # the counter does not know it
    assert head_costs(CONFIG, scale)[1] == counter.get_total_flops() / 2 / 64 + resize
