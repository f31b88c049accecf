import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.half import TYPES, must_stay, to_half
from overnet.export.verify.declared_types import run_exactly
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.metrics import psnr
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy
from overnet.network.model import reference


@pytest.fixture(scope="module")
def model(small_checkpoint):
    return build_onnx(deploy(load_checkpoint(small_checkpoint)), 2)


def types_within(model):
    """The element type of every tensor in the graph."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_tensor_has_the_type_that_it_should(model, precision):
    half = to_half(model, precision)
    types = types_within(half)
    weights = {constant.name: constant.data_type for constant in half.graph.initializer}
    convolutions = 0
    for node in half.graph.node:
        if node.op_type == "Cast":
            continue
        expected = TensorProto.FLOAT if must_stay(node) else TYPES[precision]
        assert types[node.output[0]] == expected, node.name
        if node.op_type == "Conv" and not must_stay(node):
            convolutions += 1
            assert {weights[name] for name in node.input[1:]} == {TYPES[precision]}
    assert convolutions > 20
    means = [node for node in half.graph.node if node.op_type == "GlobalAveragePool"]
    assert means and all(types[node.input[0]] == TensorProto.FLOAT for node in means)
    assert types["added"] == types["base"] == TensorProto.FLOAT
    float32_weights = {name for name, kind in weights.items() if kind == TensorProto.FLOAT and name.endswith(".weight")}
    assert float32_weights <= {name for node in half.graph.node if must_stay(node) for name in node.input}


def test_fp16_passes_the_checker_and_keeps_its_ends(model):
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.input == model.graph.input and half.graph.output == model.graph.output
    assert half.metadata_props == model.metadata_props
    # The node beside either end is the cast: TensorRT allows uint8 nowhere else.
    assert half.graph.node[0].op_type == half.graph.node[-1].op_type == "Cast"


@pytest.mark.parametrize(("precision", "decibels"), [("fp16", 60), ("bf16", 45)])
def test_halves_are_near_the_whole(model, image, precision, decibels):
    exact = run_exactly(model, image[None], ["shuffled"])["shuffled"]
    half = run_exactly(to_half(model, precision), image[None], ["shuffled"])["shuffled"]
    error = np.mean((exact - half) ** 2)
    assert 10 * np.log10(255**2 / error) > decibels
    assert error > 0, "it was computed in FP32 after all"


@pytest.mark.parametrize(("precision", "decibels"), [("fp16", 55), ("bf16", 40)])
def test_a_fractional_scale_in_half_the_precision(small_checkpoint, image, precision, decibels):
    """The size of the result is computed in integers, and images of odd sizes have the size that the network gives."""
    network = load_checkpoint(small_checkpoint)
    half = to_half(build_onnx(deploy(network), 2.5), precision)
    assert not [node.name for node in half.graph.node if node.op_type == "Cast" and node.name.startswith("size")]
    (upscaled,) = run_exactly(half, image[None, :45, :61])[OUTPUT_NAME]
    expected = reference(network, image[:45, :61], 2.5)
    assert upscaled.shape == expected.shape == (113, 153, 3)
    assert psnr(expected, upscaled, border=0) > decibels


def test_kept_nodes_stay_in_fp32(model):
    keep = {"group.0.block.0.expand.0", "fusion.relu"}
    types = types_within(to_half(model, "fp16", keep=keep))
    assert {types[name] for name in keep} == {TensorProto.FLOAT}
    assert types["group.0.block.0.expand.0.relu"] == TensorProto.FLOAT16


def test_a_weight_beyond_fp16_is_named(model):
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for constant in changed.graph.initializer:
        if constant.name == "entry.weight":
            value = numpy_helper.to_array(constant).copy()
            value[0, 0, 0, 0] = 1e5
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    with pytest.raises(OverflowError, match=r"entry\.weight holds 100000"):
        to_half(changed, "fp16")
    to_half(changed, "fp16", keep={"entry"})
    to_half(changed, "bf16")


def test_other_precisions_are_refused(model):
    with pytest.raises(ValueError, match="fp16 or bf16"):
        to_half(model, "fp8")
