"""The graph that engines are built from, run by ONNX Runtime; test_build.py builds engines from it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from overnet.errors import ArtifactError
from overnet.export.engine.engine_graph import with_means
from overnet.export.precision.half import to_half
from overnet.export.precision.quantizer import candidates, largest_inputs, quantize
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.runtime.backends.ort.tile_models import up_to_means, with_given_means
from overnet.weights import bundled_folder
from tests.conftest import ROOT


def in_precision(model, precision, image):
    if precision == "int8":
        return to_half(quantize(model, largest_inputs(model, [image]), set(candidates(model)), signed=True), "fp16")
    return model if precision == "fp32" else to_half(model, precision)


def session(content):
    options = onnxruntime.SessionOptions()
    # Each node as it is: fused ones round in other places, and numbers are to be equal here.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content, outputs, **inputs):
    return session(content).run(outputs, inputs)


def run_variant(content, images, given, use):
    inputs = {
        INPUT_NAME: images,
        GIVEN_MEANS_NAME: given.astype(np.float32),
        USE_GIVEN_MEANS_NAME: np.full((1, 1, 1, 1), use, np.float32),
    }
    return run(with_means(content), [OUTPUT_NAME, MEANS_NAME], **inputs)


@pytest.fixture(params=["small fp32", "small fp16", "small int8", "bundled fp32"])
def file(request, small_models, tmp_path, image):
    """Return an exported ONNX file. BF16, which ONNX Runtime does not compute, is the same graph as FP16."""
    which, precision = request.param.split()
    source = small_models / "small_x2.onnx" if which == "small" else bundled_folder() / "overnet_x2.onnx"
    path = tmp_path / "model.onnx"
    onnx.save(in_precision(onnx.load(source), precision, image), path)
    return path


@pytest.fixture
def images(image):
    return np.stack([image, image[::-1] // 2])


def test_without_given_means_it_computes_what_the_file_does(file, images):
    content = file.read_bytes()
    means = run(up_to_means(file), None, **{INPUT_NAME: images})
    together = np.concatenate(means, axis=1)
    # What is not used may be anything.
    upscaled, own = run_variant(content, images, np.full_like(together, np.nan), 0)
    assert np.array_equal(upscaled, run(content, [OUTPUT_NAME], **{INPUT_NAME: images})[0])
    assert np.array_equal(own, together)
    assert own.dtype == np.float32 and own.shape == (2, sum(mean.shape[1] for mean in means), 1, 1)


def test_given_means_are_used(file, images):
    given = [mean[::-1].copy() for mean in run(up_to_means(file), None, **{INPUT_NAME: images})]
    variant = with_given_means(file)
    names = [entry.name for entry in session(variant).get_inputs()][1:]
    expected = run(variant, [OUTPUT_NAME], **{INPUT_NAME: images}, **dict(zip(names, given, strict=True)))[0]
    content = file.read_bytes()
    upscaled, _ = run_variant(content, images, np.concatenate(given, axis=1), 1)
    assert np.array_equal(upscaled, expected)
    assert not np.array_equal(upscaled, run(content, [OUTPUT_NAME], **{INPUT_NAME: images})[0])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_graph_is_whole(small_models, image, precision):
    model = in_precision(onnx.load(small_models / "small_x3.onnx"), precision, image)
    variant = onnx.ModelProto.FromString(with_means(model.SerializeToString()))
    if precision != "bf16":
        # The checker knows no convolution in BF16 up to opset 21.
        onnx.checker.check_model(variant, full_check=True)
    assert [value.name for value in variant.graph.input] == [INPUT_NAME, GIVEN_MEANS_NAME, USE_GIVEN_MEANS_NAME]
    assert [value.name for value in variant.graph.output] == [OUTPUT_NAME, MEANS_NAME]
    assert variant.metadata_props == model.metadata_props
    names = [node.name for node in variant.graph.node]
    assert all(names) and len(set(names)) == len(names)


def test_nothing_uses_a_mean_itself(small_models):
    model = onnx.ModelProto.FromString(with_means((small_models / "small_x2.onnx").read_bytes()))
    means = {node.output[0] for node in model.graph.node if node.op_type == "GlobalAveragePool"}
    users = [node.op_type for node in model.graph.node for name in node.input if name in means]
    assert sorted(users) == ["Concat"] * len(means) + ["Where"] * len(means)


def test_what_is_no_whole_graph(small_models):
    content = (small_models / "small_x2.onnx").read_bytes()
    with pytest.raises(ArtifactError, match="not a complete ONNX graph"):
        with_means(content[: len(content) // 2])


def test_it_needs_no_torch():
    """An engine is built from an ONNX file where there is no PyTorch."""
    source = (ROOT / "export/engine/engine_graph.py").read_text()
    assert "torch" not in source


def test_levels_get_signs_with_the_same_range(small_models, image):
    model = onnx.load(small_models / "small_x2.onnx")
    largest, chosen = largest_inputs(model, [image]), set(candidates(model))
    content = to_half(quantize(model, largest, chosen), "fp16").SerializeToString()
    made = onnx.ModelProto.FromString(with_means(content))
    constants = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    quantizing = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizing
    for node in quantizing:
        assert constants[node.input[2]].dtype == np.int8
        assert 127 * constants[node.input[1]].astype(np.float32) == pytest.approx(largest[node.input[0]], rel=2**-8)
        assert 127 * constants[node.input[1]].astype(np.float32) >= largest[node.input[0]]
    given = np.zeros((1, *means_shape(made)), np.float32)
    upscaled, _ = run_variant(content, image[None], given, 0)
    expected = run(small_models.joinpath("small_x2.onnx").read_bytes(), [OUTPUT_NAME], **{INPUT_NAME: image[None]})[0]
    assert np.abs(upscaled.astype(int) - expected).mean() < 2


def means_shape(model):
    return [dim.dim_value for dim in model.graph.output[-1].type.tensor_type.shape.dim[1:]]
