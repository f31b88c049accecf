import re
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from overnet.errors import ArtifactError, InputError, MissingDependency, OutputError
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import evaluate, mean_quality
from overnet.export import exporter, from_checkpoint
from overnet.export.engine.build import BuildError
from overnet.export.engine.profile import make_profile
from overnet.export.exporter import export
from overnet.export.graph.network_graph import build_onnx
from overnet.export.options import CalibrationOptions, EngineOptions, ExportOptions
from overnet.export.precision import convert as conversion
from overnet.export.verify.comparison import TOLERANCES, ReferenceResults, drawn_images, in_openvino
from overnet.export.verify.onnx_file import in_declared_types, in_network
from overnet.files.onnx_metadata import read_artifact
from overnet.imaging.image_io import read_rgb
from overnet.network.checkpoint import load_checkpoint, load_overnet, save_checkpoint, weights_sha256
from overnet.network.deploy import deploy
from overnet.system.cuda_device import CudaDevice
from overnet.weights import bundled_checkpoint, bundled_folder, model_path
from tests.conftest import SHARED, needs_shared
from tests.export.graph.test_network_graph import random_model


@pytest.mark.parametrize(
    ("overscale", "scales", "precision"),
    [
        (2, (1, 2), "fp32"),
        (3, (2,), "fp16"),
        (3, (2,), "bf16"),
        pytest.param(3, (2.5,), "fp32", marks=pytest.mark.slow),
        pytest.param(4, (1.5, 3.333), "fp16", marks=pytest.mark.slow),
        pytest.param(5, (2.25,), "bf16", marks=pytest.mark.slow),
        pytest.param(4, (3,), "fp16", marks=pytest.mark.slow),
        pytest.param(5, (4, 5), "fp32", marks=pytest.mark.slow),
        pytest.param(5, (4, 5), "fp16", marks=pytest.mark.weekly),
        pytest.param(5, (4,), "bf16", marks=pytest.mark.slow),
        pytest.param(8, (4,), "fp16", marks=pytest.mark.weekly),
    ],
)
def test_files_agree_with_the_network(tmp_path, overscale, scales, precision):
    model = random_model(overscale=overscale)
    save_checkpoint(model, tmp_path / "model.safetensors")
    folder = tmp_path / "out"
    folder.mkdir()
    files = list(export(tmp_path / "model.safetensors", folder, ExportOptions(scales=scales, precision=precision)))
    suffix = "" if precision == "fp32" else f"_{precision}"
    assert [file.path.name for file in files] == [f"model_x{scale:g}{suffix}.onnx" for scale in scales]
    assert sorted(folder.iterdir()) == sorted(file.path for file in files)
    for file, scale in zip(files, scales, strict=True):
        assert TOLERANCES[precision].holds(file.parity)
        assert file.artifact == read_artifact(file.path)
        assert (file.artifact.scale, file.artifact.precision) == (scale, precision)
        assert file.artifact.weights_sha256 == weights_sha256(model)
        assert file.size_bytes == file.path.stat().st_size
        assert file.costs.multiply_accumulates_per_pixel > 0
        assert "OpenVINO" in file.parity.measured_by and "declared types" in file.parity.measured_by


@pytest.mark.slow
def test_int8_with_images_of_the_users(small_checkpoint, tmp_path, image):
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), image)
    (images / "b.png").write_bytes(b"no image")
    doing = []
    options = ExportOptions(scales=(2,), precision="int8", calibration=CalibrationOptions(images, max_loss_db=0.5))
    (file,) = export(small_checkpoint, tmp_path, options, progress=lambda what, done, total: doing.append(what))
    assert file.path.name == "small_x2_int8.onnx"
    assert read_artifact(file.path).precision == file.artifact.precision == "int8"
    assert TOLERANCES["int8"].holds(file.parity)
    share = re.fullmatch(r"\d+ convolutions in INT8, (\d+)% of .* costs (-?[\d.]+) dB of .* 1 cal.*", file.notes[0])
    assert int(share[1]) > 50 and float(share[2]) <= 0.5
    assert any("b.png" in note for note in file.notes)
    assert "calibrating" in doing
    model = onnx.load(file.path)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 5
    assert sum(constant.data_type == onnx.TensorProto.INT8 for constant in model.graph.initializer) > 10


@pytest.mark.slow
def test_int8_that_costs_too_much_is_refused(small_checkpoint, tmp_path):
    options = ExportOptions(scales=(2,), precision="int8", calibration=CalibrationOptions(max_loss_db=-50))
    with pytest.raises(InputError, match="no layer can be INT8 within a loss of -50 dB"):
        list(export(small_checkpoint, tmp_path, options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_half_the_precision_is_half_the_size(small_checkpoint, tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16"):
        (file,) = export(small_checkpoint, tmp_path, ExportOptions(scales=(2,), precision=precision))
        weights = onnx.load(file.path).graph.initializer
        sizes[precision] = (sum(len(weight.raw_data) for weight in weights), file.costs.activation_bytes_per_pixel)
    assert sizes["fp16"][0] < 0.6 * sizes["fp32"][0]
    assert sizes["fp16"][1] < 0.75 * sizes["fp32"][1]


@pytest.mark.parametrize("scale", [0, 4, 0.5, 3.5, 1e9])
def test_a_scale_beyond_the_network_stops_all(small_checkpoint, tmp_path, scale):
    with pytest.raises(InputError, match="from 1 to 3"):
        list(export(small_checkpoint, tmp_path, ExportOptions(scales=(2, scale), precision="fp32")))
    assert list(tmp_path.iterdir()) == []


def test_too_fine_a_fraction_is_refused_with_a_near_one(small_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"scale is 1\.3334; a fraction has at most three decimals, such as 1\.333$"):
        list(export(small_checkpoint, tmp_path, ExportOptions(scales=(2, 1.3334), precision="fp32")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("scale", "hint"), [(2.5, "export --scale 3, .* overnet-run --scale 2.5"), (4.5, "$")])
def test_a_plain_network_has_whole_scales(tmp_path, scale, hint):
    with pytest.raises(InputError, match=f"scale is {scale}; this network has 2, 3, 4.*{hint}"):
        list(export(model_path("realtime", checkpoint=True), tmp_path, ExportOptions(scales=(scale,))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_check_refuses_a_wrong_graph_and_names_the_layer(small_checkpoint, tmp_path, monkeypatch, precision):
    honest = from_checkpoint.deploy

    def wrong(model):
        network = honest(model)
        network.fusion.weight[:] += 0.5
        return network

    monkeypatch.setattr(from_checkpoint, "deploy", wrong)
    with pytest.raises(ArtifactError, match=r"small_x2\S* is refused: .* first to diverge is fusion\.relu \(Relu\)"):
        list(export(small_checkpoint, tmp_path, ExportOptions(scales=(2,), precision=precision)))
    assert list(tmp_path.iterdir()) == []


def test_the_check_refuses_what_is_not_finite(small_checkpoint, tmp_path, monkeypatch):
    """An overflow inside that leaves no trace in the result: it might on another image."""
    honest = from_checkpoint.build_onnx

    def overflowing(*arguments, **options):
        model = honest(*arguments, **options)
        for constant in model.graph.initializer:
            if constant.name == "entry.weight":
                value = numpy_helper.to_array(constant).copy()
                value[0] = 1e5
                constant.CopyFrom(numpy_helper.from_array(value, constant.name))
        return model

    monkeypatch.setattr(from_checkpoint, "build_onnx", overflowing)
    monkeypatch.setattr(conversion, "nodes_beyond_half", lambda model, images: {"entry": 1e5})
    with pytest.raises(ArtifactError, match=r"is refused: .* infinite or undefined"):
        list(export(small_checkpoint, tmp_path, ExportOptions(scales=(2,), precision="fp16")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_scales_that_the_network_has(tmp_path):
    """The original's x2 checkpoints have an overscale factor of 3."""
    save_checkpoint(random_model(overscale=3), tmp_path / "x2.safetensors")
    files = list(export(tmp_path / "x2.safetensors", tmp_path, ExportOptions(precision="fp32")))
    assert [file.path.name for file in files] == ["x2_x2.onnx", "x2_x3.onnx"]


def test_an_engine_that_cannot_be_built_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = ExportOptions(engine=EngineOptions("tensorrt", make_profile(None, 1)))
    with pytest.raises(MissingDependency, match="building for TensorRT needs tensorrt"):
        list(export(tmp_path / "missing.safetensors", tmp_path, options))


def test_a_network_with_huge_activations_is_exported_with_them_in_fp32(tmp_path):
    model = random_model(overscale=3)
    block = model.trunk.members[0].members[0]
    import torch

    with torch.no_grad():
        # The same function: what the expansion gains the reduction loses again.
        for convolution, factor in ((block.expand, 1e6), (block.reduce, 1e-6)):
            convolution.parametrizations.weight.original0.mul_(factor)
        block.expand.bias.mul_(1e6)
    save_checkpoint(model, tmp_path / "huge.safetensors")
    (file,) = export(tmp_path / "huge.safetensors", tmp_path, ExportOptions(scales=(2,), precision="fp16"))
    (note,) = file.notes
    assert "group.0.block.0.expand.0" in note and "65,504" in note
    assert TOLERANCES["fp16"].holds(file.parity)


def test_existing_file_is_kept_unless_asked(small_checkpoint, tmp_path):
    path = tmp_path / "small_x2.onnx"
    path.write_text("mine")
    options = ExportOptions(scales=(2,), precision="fp32")
    with pytest.raises(OutputError, match="exists already"):
        list(export(small_checkpoint, tmp_path, options))
    assert path.read_text() == "mine"
    list(export(small_checkpoint, tmp_path, options, overwrite=True))
    assert read_artifact(path).scale == 2


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bundled_files_come_from_the_bundled_weights(scale):
    model = load_checkpoint(bundled_checkpoint())
    path = bundled_folder() / f"overnet_x{scale}.onnx"
    assert read_artifact(path).weights_sha256 == weights_sha256(model)
    assert weights_sha256(model) in (bundled_folder() / "MODEL_CARD.md").read_text()
    assert TOLERANCES["fp32"].holds(
        ReferenceResults(in_network(model, scale), drawn_images()).compare(*in_openvino(path))
    )


@needs_shared
@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(2, marks=pytest.mark.weekly),
        pytest.param(3, marks=pytest.mark.weekly),
        pytest.param(4, marks=pytest.mark.slow),  # whose images are the smallest
    ],
)
def test_bundled_files_agree_with_the_network_on_real_images(bundled_network, scale):
    images = [read_rgb(pair.low) for pair in find_pairs(SHARED / "sets/Set5", scale)]
    reference_results = ReferenceResults((lambda image: bundled_network(image, scale), "PyTorch"), images)
    parity = reference_results.compare(*in_openvino(bundled_folder() / f"overnet_x{scale}.onnx"))
    assert parity.largest_difference <= 1
    assert parity.psnr_db > 65


@needs_shared
@pytest.mark.weekly
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_fp16_costs_no_quality(bundled_half, bundled_network, scale):
    """On Set5, in the declared types: the same PSNR within 0.02 dB, and at least 50 dB to the network."""
    pairs = find_pairs(SHARED / "sets/Set5", scale)
    upscale, _ = in_declared_types(onnx.load(bundled_half(scale)))
    images = [read_rgb(pair.low) for pair in pairs]
    # Each image is computed once, and looked up by its content where it is measured again.
    results = {image.tobytes(): upscale(image) for image in images}
    half = mean_quality(evaluate(lambda image: results[image.tobytes()], pairs, scale))
    whole = mean_quality(evaluate(lambda image: bundled_network(image, scale), pairs, scale))
    assert abs(half.psnr_db - whole.psnr_db) < 0.02
    reference_results = ReferenceResults((lambda image: bundled_network(image, scale), "PyTorch"), images)
    parity = reference_results.compare(lambda image: results[image.tobytes()], "its declared types")
    assert parity.psnr_db > 50


def test_deployed_arrays_are_not_shared_between_scales(small_checkpoint):
    """Exporting several scales from one deployed network leaves it as it is."""
    network = deploy(load_overnet(small_checkpoint))
    before = network.fusion.weight.copy()
    build_onnx(network, 2, significant_bits=16)
    assert np.array_equal(network.fusion.weight, before)


@pytest.mark.parametrize(
    ("capability", "target", "named"),
    [
        ("7.5", "tensorrt-rtx", "7.5"),
        ("8.9", "tensorrt-rtx", None),
        ("7.5", "tensorrt", None),
        (None, "tensorrt-rtx", None),
    ],
)
def test_turing_is_named_to_tensorrt_rtx(small_checkpoint, tmp_path, monkeypatch, capability, target, named):
    device = None if capability is None else CudaDevice("GPU", capability, shares_memory=False)
    given = {}

    def build(*_, **options):
        given.update(options)
        raise BuildError("enough")

    monkeypatch.setattr(exporter, "cuda_device", lambda: device)
    monkeypatch.setattr(exporter, "build_engine", build)
    monkeypatch.setattr(exporter, "check_builder", lambda target: None)
    options = ExportOptions(scales=(1,), precision="fp32", engine=EngineOptions(target, make_profile("32x32")))
    with pytest.raises(BuildError, match="enough"):
        list(export(small_checkpoint, tmp_path, options))
    assert given["compute_capability"] == named
    assert list(tmp_path.iterdir()) == []
