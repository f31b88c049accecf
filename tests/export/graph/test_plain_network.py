"""Plain networks' graphs, compared with PyTorch."""

import numpy as np
import onnx
import pytest
import torch

from overnet.errors import InputError
from overnet.export.exporter import export
from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import build_onnx
from overnet.export.options import ExportOptions
from overnet.export.verify.declared_types import run_exactly
from overnet.export.verify.divergence import network_tensors
from overnet.files.onnx_metadata import OUTPUT_NAME, read_artifact
from overnet.network.checkpoint import save_checkpoint, weights_sha256
from overnet.network.deploy import deploy
from overnet.network.model import reference
from overnet.network.plain import PlainNet, PlainNetConfig

SIZES = [(1, 1), (1, 7), (13, 2), (37, 23)]


def plain_net(activation="relu", **shape):
    torch.manual_seed(11)
    model = PlainNet(PlainNetConfig(**{"width": 6, "depth": 3, "activation": activation, **shape})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("heads"):
                parameter.mul_(20)  # so that it is not all but the repeated input
            elif "widen" in name or "activations" in name:
                parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("activation", ["relu", "prelu"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_graph_computes_what_the_network_does(activation, scale):
    model = plain_net(activation)
    graph = build_onnx(deploy(model), scale)
    random = np.random.default_rng(scale)
    for height, width in SIZES:
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        upscaled = run_exactly(graph, image[None])[OUTPUT_NAME][0]
        expected = reference(model, image, scale)
        repeated = image.repeat(scale, 0).repeat(scale, 1)
        assert upscaled.shape == (height * scale, width * scale, 3)
        assert np.abs(upscaled.astype(int) - expected).max() <= 1
        assert np.mean(upscaled != expected) < 0.01
        assert np.abs(expected.astype(int) - repeated).max() > 3


def test_tensors_have_the_names_of_the_network(image):
    """So that the export can name the first one that diverges."""
    model = plain_net("prelu")
    computed = run_exactly(build_onnx(deploy(model), 2), image[None], None)
    tensors = network_tensors(model, image, 2)
    assert {"entry", "body.0", "body.1", "body.2", "shuffled"} <= tensors.keys()
    for name in tensors.keys() & computed.keys() - {"added"}:
        assert np.allclose(tensors[name], computed[name], rtol=1e-3, atol=1e-2), name


def test_costs_are_the_configurations():
    config = PlainNetConfig(width=8, depth=4)
    counted = count_costs(build_onnx(deploy(PlainNet(config)), 3))
    assert counted.multiply_accumulates_per_pixel == config.multiply_accumulates(3) + 3 * 3**2  # the repeated input
    assert counted.activation_bytes_per_pixel == config.activation_bytes(3)
    wide = PlainNetConfig(width=32, depth=1)
    assert count_costs(build_onnx(deploy(PlainNet(wide)), 2)).activation_bytes_per_pixel == wide.activation_bytes(2)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_it_is_exported_in_every_precision(tmp_path, precision):
    model = plain_net()
    save_checkpoint(model, tmp_path / "net.safetensors")
    files = list(export(tmp_path / "net.safetensors", tmp_path, ExportOptions(precision=precision)))
    assert [file.artifact.scale for file in files] == [2, 3, 4]
    for file in files:
        artifact = read_artifact(file.path)
        assert artifact == file.artifact
        assert (artifact.reach, artifact.overscale) == (5, artifact.scale)
        assert artifact.activation_bytes == model.config.activation_bytes(int(artifact.scale))
        assert (artifact.precision, artifact.weights_sha256) == (precision, weights_sha256(model))
        types = {constant.data_type for constant in onnx.load(file.path).graph.initializer}
        wanted = {"fp32": onnx.TensorProto.FLOAT, "bf16": onnx.TensorProto.BFLOAT16, "int8": onnx.TensorProto.INT8}
        assert wanted.get(precision, onnx.TensorProto.FLOAT16) in types


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(scales=(2, 5)), "scale is 5; this network has 2, 3, 4$"),
        (ExportOptions(form="lean-memory"), "no lean-memory form"),
    ],
)
def test_what_a_plain_network_has_not(tmp_path, options, message):
    save_checkpoint(plain_net(), tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=message) as error:
        list(export(tmp_path / "net.safetensors", tmp_path, options))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.onnx"))
