import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.half import to_half
from overnet.export.precision.quantizer import candidates, largest_inputs, quantize, quantized_weight, step_for
from overnet.export.verify.comparison import drawn_images
from overnet.export.verify.declared_types import run_exactly
from overnet.network.deploy import deploy
from overnet.network.plain import PlainNet, PlainNetConfig
from tests.export.graph.test_network_graph import random_model

# From where FP16 has all its digits to where 127 steps are still within it.
NUMBERS = st.floats(2**-7, 2**22, width=32)


@pytest.fixture(scope="module")
def exact():
    return build_onnx(deploy(random_model(overscale=3)), 2)


@given(st.floats(0, 2**22, width=32))
def test_a_step_is_exact_in_fp16_and_cuts_nothing_off(largest):
    step = step_for(np.float32(largest))
    assert step == np.float32(np.float16(step)) and step > 0
    assert 127 * np.float64(step) >= largest


@given(NUMBERS)
def test_a_step_is_hardly_larger_than_it_must_be(largest):
    assert 127 * np.float64(step_for(np.float32(largest))) <= largest * (1 + 2**-9)


@given(hnp.arrays(np.float32, (3, 2, 3, 3), elements=st.floats(-8, 8, width=32)))
def test_quantised_weights_are_within_half_a_step(weight):
    levels, steps = quantized_weight(weight)
    assert levels.dtype == np.int8 and levels.min() >= -127
    for channel in range(3):
        restored = levels[channel] * np.float64(steps[channel])
        assert np.abs(restored - weight[channel]).max() <= steps[channel] * 0.5001


def test_what_can_be_quantised(exact):
    found = candidates(exact)
    nodes = {node.name: node for node in exact.graph.node}
    assert len(found) > 10
    assert all(nodes[name].op_type == "Conv" for name in found)
    assert "entry" not in found and "group.0.block.0.expand.0" in found
    assert not any(name.endswith((".narrow", ".widen")) for name in found)  # they see means, once an image


def test_ranges_are_those_of_the_images(exact):
    images = drawn_images()[:3]
    largest = largest_inputs(exact, images)
    name = next(node.input[0] for node in exact.graph.node if node.name == "group.0.block.0.reduce.0")
    expected = max(np.abs(run_exactly(exact, image[None], [name])[name]).max() for image in images)
    assert largest[name] == pytest.approx(expected)


@pytest.mark.parametrize("signed", [True, False])
def test_the_chosen_layers_alone_are_quantised_with_zero_points_of_zero(exact, signed):
    images = drawn_images()
    largest = largest_inputs(exact, images)
    chosen = set(candidates(exact)[::2])
    model = quantize(exact, largest, chosen, signed=signed)
    onnx.checker.check_model(model, full_check=True)
    made_by = {node.output[0]: node for node in model.graph.node}
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    rectified = set() if signed else {node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    kinds = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kind = np.uint8 if node.input[0] in rectified else np.int8
            kinds.add(kind)
            assert not constants[node.input[2]].any() and constants[node.input[2]].dtype == kind
            step = constants[node.input[1]]
            assert np.iinfo(kind).max * step == pytest.approx(largest[node.input[0]], rel=2**-9)
        if node.op_type == "Conv":
            quantized = [made_by[name].op_type if name in made_by else "" for name in node.input[:2]]
            assert (quantized == ["DequantizeLinear"] * 2) == (node.name in chosen)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            levels, steps = (constants[name] for name in node.input[:2])
            assert levels.dtype == np.int8 and steps.shape == (levels.shape[0],)
    assert {name for node in model.graph.node for name in node.input} >= set(constants)
    assert signed or np.uint8 in kinds


def test_it_computes_nearly_the_same_in_onnx_runtime_and_ours(exact):
    onnxruntime = pytest.importorskip("onnxruntime")
    images = drawn_images()
    model = quantize(exact, largest_inputs(exact, images), set(candidates(exact)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for image in images[:4]:
        (theirs,) = session.run(None, {session.get_inputs()[0].name: image[None]})
        ours = next(iter(run_exactly(model, image[None]).values()))
        plain = next(iter(run_exactly(exact, image[None]).values()))
        assert np.abs(theirs.astype(int) - ours).max() <= 3
        error = np.mean((theirs.astype(float) - plain) ** 2)
        assert error == 0 or 10 * np.log10(255**2 / error) > 30
        assert np.any(theirs != plain) or image.std() == 0


def test_levels_without_a_sign_are_nearer_to_what_is_rounded():
    """At twice as many levels, a quarter of the error of rounding activations; the weights' own stays."""
    exact = build_onnx(deploy(PlainNet(PlainNetConfig(width=8, depth=4))), 2)
    images = drawn_images()
    largest = largest_inputs(exact, images)
    errors = []
    for signed in (True, False):
        model = quantize(exact, largest, set(candidates(exact)), signed=signed)
        name = next(node.name for node in model.graph.node if node.op_type == "DequantizeLinear")
        source = name.removesuffix(".dequantized")
        both = run_exactly(model, images[0][None], [source, name])
        errors.append(float(np.mean((both[source] - both[name]) ** 2)))
    assert errors[1] < errors[0] / 3


def test_the_rest_can_be_made_fp16(exact):
    largest = largest_inputs(exact, drawn_images())
    model = to_half(quantize(exact, largest, set(candidates(exact))), "fp16")
    onnx.checker.check_model(model, full_check=True)
    # A step rounded to FP16 would be another step.
    before = quantize(exact, largest, set(candidates(exact))).graph.initializer
    exact_steps = {each.name: numpy_helper.to_array(each) for each in before if each.name.endswith((".step", ".steps"))}
    for constant in model.graph.initializer:
        if constant.name in exact_steps:
            assert np.array_equal(numpy_helper.to_array(constant).astype(np.float32), exact_steps[constant.name])
