import importlib.util
import shutil
import struct
import sys

import cv2
import numpy as np
import pytest

from overnet.benchmarks.baselines.model_files import SUPERRES_SUFFIX, load_ncnn, load_superres
from overnet.benchmarks.baselines.registry import (
    BICUBIC,
    EAGER,
    PLAIN,
    find_baselines,
    load_bicubic,
    load_eager,
    load_plain,
)
from overnet.benchmarks.cases.network import checkpoint_of
from overnet.benchmarks.options import MeasuringOptions
from overnet.errors import InputError, MissingDependency
from overnet.weights import bundled_checkpoint, bundled_folder

needs_superres = pytest.mark.skipif(not hasattr(cv2, "dnn_superres"), reason="this OpenCV has no dnn_superres")
needs_ncnn = pytest.mark.skipif(not importlib.util.find_spec("ncnn"), reason="ncnn is not installed")


@pytest.fixture
def images(image):
    return np.stack([image, image[::-1]])


def test_bicubic_is_opencv_s_on_every_image_of_a_batch(images):
    upscaled = load_bicubic(3).upscale(images)
    assert upscaled.shape == (2, 150, 198, 3)
    for image, made in zip(images, upscaled, strict=True):
        assert np.array_equal(made, cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))


def test_the_network_in_pytorch_is_what_exported_files_are_compared_with(small_checkpoint, images):
    parity = pytest.importorskip("overnet.export.verify.onnx_file")
    from overnet.network.checkpoint import load_checkpoint

    baseline = load_eager(3, small_checkpoint)
    network = load_checkpoint(small_checkpoint)
    expected = np.stack([parity.reference(network, image, 3) for image in images])
    # A batch of two may be added up in another order than one.
    assert np.abs(baseline.upscale(images).astype(int) - expected).max() <= 1
    assert baseline.is_network
    assert baseline.model == "small.safetensors"


def test_the_plain_graph_computes_the_same_network_with_the_arithmetic_that_is_counted(small_checkpoint, images):
    for module in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(module)
    from overnet.export.graph.costs import count_costs
    from overnet.export.graph.network_graph import build_onnx
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.deploy import deploy

    plain, eager = load_plain(2, small_checkpoint), load_eager(2, small_checkpoint)
    assert np.abs(plain.upscale(images).astype(int) - eager.upscale(images)).max() <= 1
    counted = count_costs(build_onnx(deploy(load_checkpoint(small_checkpoint)), 2, form="as-defined"))
    assert plain.multiply_accumulates_per_pixel == pytest.approx(counted.multiply_accumulates_per_pixel, rel=1e-6)
    assert eager.multiply_accumulates_per_pixel == plain.multiply_accumulates_per_pixel


def test_a_scale_beyond_the_network_is_refused(small_checkpoint):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"small\.safetensors is not for x4: its network goes from 1 to 3"):
        load_eager(4, small_checkpoint)


def test_what_is_not_installed_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    loaders = find_baselines(2, MeasuringOptions())
    assert list(loaders) == [BICUBIC, EAGER, PLAIN]
    for name in (EAGER, PLAIN):
        with pytest.raises(
            MissingDependency,
            match=r"^(eager PyTorch|the plain ONNX graph) needs torch, which is not installed: pip install",
        ) as error:
            loaders[name]()
        assert "\n" not in str(error.value)
    assert loaders[BICUBIC]().name == BICUBIC


def test_the_checkpoint_of_a_model_is_found_by_its_weights(small_checkpoint, small_models, tmp_path):
    assert checkpoint_of(None, 2) == bundled_checkpoint()
    assert checkpoint_of(bundled_folder() / "overnet_x2.onnx", 2) == bundled_checkpoint()
    assert checkpoint_of(small_checkpoint, 2) == small_checkpoint
    copied = tmp_path / "mine.onnx"
    shutil.copy(bundled_folder() / "overnet_x3.onnx", copied)
    assert checkpoint_of(copied, 3) == bundled_checkpoint()
    for other in (small_models, sorted(small_models.glob("*.onnx"))[0]):
        with pytest.raises(InputError, match="has other weights than the bundled checkpoint"):
            checkpoint_of(other, 2)
    with pytest.raises(InputError):
        checkpoint_of(tmp_path / "none.onnx", 2)


def test_a_folder_of_models_is_gone_through_for_the_scale(tmp_path):
    for name in (
        f"ESPCN_x2{SUPERRES_SUFFIX}",
        f"FSRCNN-small_x2{SUPERRES_SUFFIX}",
        f"EDSR_x4{SUPERRES_SUFFIX}",
        "mine.param",
        "mine.bin",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "alone.param").write_bytes(b"")
    found = list(find_baselines(2, MeasuringOptions(baseline_models=tmp_path)))
    assert found == [BICUBIC, EAGER, PLAIN, "OpenCV ESPCN_x2", "OpenCV FSRCNN-small_x2", "ncnn mine"]
    assert "OpenCV EDSR_x4" in find_baselines(4, MeasuringOptions(baseline_models=tmp_path))
    with pytest.raises(InputError, match="No such file"):
        find_baselines(2, MeasuringOptions(baseline_models=tmp_path / "none"))


@pytest.mark.skipif(hasattr(cv2, "dnn_superres"), reason="this OpenCV has dnn_superres")
def test_without_dnn_superres_its_models_say_what_to_install(tmp_path):
    with pytest.raises(
        MissingDependency, match=r"ESPCN_x2\.onnx needs OpenCV's dnn_superres: pip install opencv-contrib"
    ):
        load_superres(tmp_path / "ESPCN_x2.onnx", 2)


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is not None, reason="ncnn is installed")
def test_without_ncnn_its_models_say_what_to_install(tmp_path):
    with pytest.raises(MissingDependency, match=r"mine\.param needs ncnn .*pip install ncnn"):
        load_ncnn(tmp_path / "mine.param", 2)


def _write_ncnn(folder, *, factor=2):
    """A model whose convolution copies each colour to the four places that become one square: nearest neighbours."""
    channels = 3 * factor**2
    weights = np.zeros((channels, 3, 3, 3), np.float32)
    for channel in range(channels):
        weights[channel, channel // factor**2, 1, 1] = 1
    (folder / "nearest.param").write_text(
        "7767517\n3 3\nInput data 0 1 data\n"
        f"Convolution conv 1 1 data conv 0={channels} 1=3 4=1 5=1 6={weights.size}\n"
        f"PixelShuffle output 1 1 conv output 0={factor}\n"
    )
    content = struct.pack("<I", 0) + weights.tobytes() + np.zeros(channels, np.float32).tobytes()
    (folder / "nearest.bin").write_bytes(content)
    return folder / "nearest.param"


@needs_ncnn
def test_ncnn_runs_a_users_model(tmp_path, images):
    baseline = load_ncnn(_write_ncnn(tmp_path), 2)
    assert np.array_equal(baseline.upscale(images), images.repeat(2, axis=1).repeat(2, axis=2))
    assert (baseline.name, baseline.model, baseline.is_network) == ("ncnn nearest", "nearest.param", False)


@needs_ncnn
def test_ncnn_refuses_models_of_another_scale_and_broken_ones(tmp_path):
    with pytest.raises(InputError, match=r"nearest\.param upscales by 3, not by 2"):
        load_ncnn(_write_ncnn(tmp_path, factor=3), 2)
    (tmp_path / "broken.param").write_text("no model\n")
    (tmp_path / "broken.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"broken\.param: ncnn cannot read it"):
        load_ncnn(tmp_path / "broken.param", 2)


def _write_superres(folder):
    """ESPCN's kind in the form that this OpenCV reads; it repeats every pixel."""
    weights = np.zeros((3, 3, 1, 4), np.float32)
    weights[1, 1] = 1
    if SUPERRES_SUFFIX == ".pb":
        path = folder / "ESPCN_x2.pb"
        path.write_bytes(_tensorflow_graph(weights))
        return path
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["planar"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planar", "weights"], ["shuffled"], pads=[1] * 4),
            helper.make_node("DepthToSpace", ["shuffled"], ["y"], blocksize=2),
        ],
        "espcn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "h", "w", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "H", "W"])],
        [numpy_helper.from_array(weights.transpose(3, 2, 0, 1), "weights")],
    )
    path = folder / "ESPCN_x2.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def _tensorflow_graph(weights):
    """A GraphDef in Protocol Buffers' wire format, written by hand: TensorFlow is no dependency for a test."""

    def number(value):
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    def field(key, value):
        if isinstance(value, int):
            return number(key << 3) + number(value)
        content = value.encode() if isinstance(value, str) else value
        return number(key << 3 | 2) + number(len(content)) + content

    def node(name, operator, inputs=(), **attributes):
        entries = [field(5, field(1, key) + field(2, value)) for key, value in attributes.items()]
        return field(1, b"".join([field(1, name), field(2, operator), *(field(3, each) for each in inputs), *entries]))

    single = field(6, 1)
    shape = b"".join(field(2, field(1, side)) for side in weights.shape)
    tensor = field(8, field(1, 1) + field(2, shape) + field(4, weights.astype("<f4").tobytes()))
    steps, same, layout = field(1, field(3, bytes([1] * 4))), field(2, "SAME"), field(2, "NHWC")
    return b"".join(
        [
            node("x", "Placeholder", dtype=single),
            node("weights", "Const", dtype=single, value=tensor),
            node("c", "Conv2D", ["x", "weights"], T=single, padding=same, data_format=layout, strides=steps),
            node("y", "DepthToSpace", ["c"], T=single, block_size=field(3, 2)),
        ]
    )


@needs_superres
def test_dnn_superres_runs_a_users_model_in_the_right_colours(tmp_path):
    baseline = load_superres(_write_superres(tmp_path), 2)
    # Luma comes out of the network and colour by interpolation: on flat images, both leave what is there.
    colours = np.array([(200, 30, 90), (10, 240, 60)], np.uint8)
    flat = np.broadcast_to(colours[:, None, None], (2, 20, 24, 3)).copy()
    upscaled = baseline.upscale(flat)
    assert upscaled.shape == (2, 40, 48, 3)
    assert np.abs(upscaled.astype(int) - flat.repeat(2, axis=1).repeat(2, axis=2)).max() <= 3


@needs_superres
def test_dnn_superres_refuses_broken_models(tmp_path):
    path = tmp_path / f"ESPCN_x2{SUPERRES_SUFFIX}"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"ESPCN_x2.*: OpenCV cannot run it") as error:
        load_superres(path, 2)
    assert "\n" not in str(error.value)
