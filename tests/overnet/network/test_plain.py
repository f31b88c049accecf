import json

import numpy as np
import pytest
import torch
from torch import nn

from overnet.errors import CheckpointError
from overnet.network.checkpoint import folded, load_checkpoint, load_overnet, save_checkpoint, weights_sha256
from overnet.network.deploy import deploy_plain
from overnet.network.family import NETWORKS, build, config_from, network_name
from overnet.network.model import OverNetConfig
from overnet.network.plain import PlainNet, PlainNetConfig

SMALL = {"width": 4, "depth": 2}


@pytest.fixture(params=["relu", "prelu"])
def model(request):
    torch.manual_seed(2)
    return PlainNet(PlainNetConfig(**SMALL, activation=request.param)).eval()


def test_every_scale_has_a_head(model):
    x = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        images = model.upscale_to(x, [4, 2.0, 3])
        assert [image.shape for image in images] == [(2, 3, 9 * scale, 7 * scale) for scale in (4, 2, 3)]
        assert torch.equal(images[1], model(x, 2))


def test_folded_convolutions_compute_the_same_at_borders_too(model):
    x = torch.rand(1, 3, 6, 5)
    plain = folded(model)
    assert not any(name.endswith(("narrow", "spatial", "widen")) for name, _ in plain.named_parameters())
    with torch.no_grad():
        for scale in (2, 3, 4):
            torch.testing.assert_close(plain(x, scale), model(x, scale), rtol=0, atol=1e-5)


def test_a_folded_weight_is_the_sum_of_its_parts(model):
    """Away from borders, a chain of convolutions and an identity are what the one convolution computes."""
    convolution = model.body[0]
    x = torch.rand(1, 4, 5, 5)
    with torch.no_grad():
        chain = nn.functional.conv2d(x, convolution.narrow[:, :, None, None])
        chain = nn.functional.conv2d(
            nn.functional.conv2d(chain, convolution.spatial), convolution.widen[..., None, None]
        )
        direct = nn.functional.conv2d(x, convolution.direct, convolution.bias)
        expected = chain + direct + x[..., 1:-1, 1:-1]
        torch.testing.assert_close(convolution(x)[..., 1:-1, 1:-1], expected, rtol=0, atol=1e-5)


def test_without_weights_the_input_is_repeated():
    model = PlainNet(PlainNetConfig(**SMALL, expansion=0))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 4, 5)
    for scale in (2, 3, 4):
        torch.testing.assert_close(model(x, scale), nn.functional.interpolate(x, scale_factor=scale, mode="nearest"))


def test_a_margin_of_its_reach_makes_tiles_exact(model):
    reach = model.config.reach
    x = torch.rand(1, 3, 30, 12)
    with torch.no_grad():
        tile = model(x[:, :, 10 - reach : 20 + reach], 2)[:, :, 2 * reach : 2 * (reach + 10)]
        torch.testing.assert_close(tile, model(x, 2)[:, :, 20:40], rtol=0, atol=1e-6)


def test_the_deployed_arrays_compute_the_same_in_levels(model):
    network = deploy_plain(model)
    assert network.weights_sha256 == weights_sha256(model)
    assert len(network.trunk) == model.config.depth + 1
    levels = torch.randint(0, 256, (1, 3, 6, 7)).float()

    def convolved(x, convolution):
        return nn.functional.conv2d(
            x, torch.from_numpy(convolution.weight), torch.from_numpy(convolution.bias), padding=1
        )

    features = levels
    slopes = network.slopes or [np.zeros(model.config.width, np.float32)] * len(network.trunk)
    for convolution, slope in zip(network.trunk, slopes, strict=True):
        features = nn.functional.prelu(convolved(features, convolution), torch.from_numpy(slope))
    for scale, head in network.heads.items():
        repeated = torch.stack([levels] * scale**2, dim=2).flatten(1, 2)
        image = nn.functional.pixel_shuffle(convolved(features, head) + repeated, scale)
        with torch.no_grad():
            torch.testing.assert_close(image / 255, model(levels / 255, scale), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "least", "most"), [("fast", 80_000, 110_000), ("realtime", 15_000, 25_000)])
def test_the_named_networks_cost_what_they_are_meant_to(name, least, most):
    config = NETWORKS[name]
    assert isinstance(config, PlainNetConfig)
    plain = folded(PlainNet(config))
    sizes = {name: module.weight.numel() for name, module in plain.named_modules() if isinstance(module, nn.Conv2d)}
    used = [size for name, size in sizes.items() if name not in ("heads.3", "heads.4")]
    assert config.multiply_accumulates(2) == sum(used)
    assert least < config.multiply_accumulates(2) < most


def test_names_of_configurations():
    assert all(network_name(build(config).config) == name for name, config in NETWORKS.items())
    assert network_name(PlainNetConfig(width=16, depth=8, scales=(2,), expansion=0)) == "realtime"
    assert network_name(PlainNetConfig(width=5)) is None
    assert network_name(OverNetConfig(width=8, squeeze=4)) == "overnet"


def test_scales_and_inputs_of_other_kinds_are_refused(model):
    with pytest.raises(ValueError, match=r"scale is 2\.5; this network has 2, 3, 4"):
        model(torch.rand(1, 3, 8, 8), 2.5)
    with pytest.raises(ValueError, match="N x 3 x H x W"):
        model(torch.rand(3, 8, 8), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"width": 100_000}, {"depth": 0}, {"depth": 65}, {"expansion": -1}, {"activation": "gelu"},
        {"scales": ()}, {"scales": (3, 2)}, {"scales": (2, 2)}, {"scales": (1,)}, {"scales": (9,)}, {"scales": (2.5,)},
    ],
)  # fmt: skip
def test_configurations_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PlainNetConfig(**change)
    with pytest.raises(CheckpointError, match=next(iter(change))):
        config_from("plain", change)


@pytest.mark.parametrize(
    "change", [{"width": 2.0}, {"expansion": True}, {"depth": "9"}, {"scales": 2}, {"scales": [[2]]}, {"speed": 1}]
)
def test_configurations_of_other_types_are_refused(change):
    with pytest.raises(CheckpointError, match=next(iter(change))):
        config_from("plain", change)
    with pytest.raises(CheckpointError, match="architecture"):
        config_from([], {})


def test_checkpoints_know_which_network_they_hold(model, tmp_path):
    for name, network in (("trained", model), ("plain", folded(model))):
        save_checkpoint(network, tmp_path / name)
        loaded = load_checkpoint(tmp_path / name)
        assert isinstance(loaded, PlainNet)
        assert loaded.config == network.config
        x = torch.rand(1, 3, 5, 6)
        with torch.no_grad():
            assert torch.equal(loaded(x, 3), network(x, 3))
        assert weights_sha256(loaded) == weights_sha256(model)
    with pytest.raises(CheckpointError, match="plain: holds a plain network; this needs an OverNet"):
        load_overnet(tmp_path / "plain")


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("architecture", "edsr", "'edsr'"),
        ("config", '{"width": 1000000}', "width is 1000000"),
        ("config", '{"width": 4, "heads": 9}', "heads"),
        ("config", "[1]", "damaged"),
        ("config", '{"width": 8, "depth": 2}', "has shape"),
        ("config", '{"width": 4, "depth": 3}', "missing"),
        ("config", '{"width": 4, "depth": 1}', "do not belong to PlainNet"),
    ],
)
def test_damaged_checkpoints_are_refused_in_a_line(tmp_path, entry, text, message):
    path = tmp_path / "x.safetensors"
    save_checkpoint(PlainNet(PlainNetConfig(**SMALL)), path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"][f"overnet.{entry}"] = text
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
