"""The evaluator against ONNX's own reference evaluator, an independent implementation that is too slow to use."""

from typing import Any, cast

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.half import to_half
from overnet.export.verify.declared_types import run_exactly
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy

TYPES: dict[Any, int] = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def by_reference(model, image):
    """All tensors by ONNX's evaluator."""
    return cast(dict[str, Any], ReferenceEvaluator(model).run(None, {"image": image}, intermediate=True))


def one_node(operator, x, *constants, **attributes):
    """A graph that casts an image's levels and applies one node to them; its result by both evaluators."""
    element_type = TYPES[x.dtype]
    names = [f"constant.{index}" for index in range(len(constants))]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], name="x", to=element_type),
        helper.make_node("Transpose", ["x"], ["planar"], name="planar", perm=[0, 3, 1, 2]),
        helper.make_node(operator, ["planar", *names], ["result"], name="result", **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [None, None, None, 3])],
        [helper.make_tensor_value_info("result", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(value, name) for name, value in zip(names, constants, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    image = x.astype(np.uint8)
    expected = by_reference(model, image)["result"]
    return run_exactly(model, image, ["result"])["result"], expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("Add", [np.full((1, 3, 1, 1), 0.1)], {}),
        ("Sub", [np.full((1, 3, 1, 1), 100.3)], {}),
        ("Mul", [np.full((1, 3, 1, 1), 1.37)], {}),
        ("Clip", [np.float64(30), np.float64(200)], {}),
        ("Sigmoid", [], {}),
        ("Relu", [], {}),
        ("GlobalAveragePool", [], {}),
        ("Pad", [np.array([0, 0, 1, 2, 0, 0, 3, 1])], {"mode": "edge"}),
        ("Slice", [np.array([-1]), np.array([2**62]), np.array([2])], {}),
        ("Slice", [np.array([0]), np.array([1]), np.array([3])], {}),
        ("Conv", [np.random.default_rng(1).normal(0, 0.1, (6, 1, 3, 3)), np.ones(6)], {"group": 3}),
    ],
)
def test_each_operator(operator, constants, attributes, dtype):
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(dtype)
    constants = [np.asarray(c, None if np.asarray(c).dtype == np.int64 else dtype) for c in constants]
    if operator == "Conv":
        attributes = attributes | {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    computed, expected = one_node(operator, x, *constants, **attributes)
    # One step of FP16 for what is added up or computed in another order; elementwise results are the same.
    tolerance = 0 if operator in ("Add", "Sub", "Mul", "Clip", "Relu", "Pad", "Slice") else 2e-3
    assert computed.shape == expected.shape
    np.testing.assert_allclose(computed, expected.astype(np.float32), rtol=tolerance, atol=0)


@settings(max_examples=30, deadline=None)
@given(scale=st.sampled_from([0.25, 1.5, 3.0]), axis=st.sampled_from([None, 0]), seed=st.integers(0, 999))
def test_quantising_and_back(scale, axis, seed):
    random = np.random.default_rng(seed)
    weight = random.integers(-128, 128, (4, 3, 1, 1)).astype(np.int8)
    scales = np.float32(scale) if axis is None else random.uniform(0.5, 2, 4).astype(np.float32) * np.float32(scale)
    zeros = np.zeros(np.shape(scales), np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["x"], ["planar"], perm=[0, 3, 1, 2]),
            helper.make_node("QuantizeLinear", ["planar", "step", "zero"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "step", "zero"], ["back"]),
            helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["weight"], axis=axis or 0),
            helper.make_node("Conv", ["back", "weight"], ["result"], kernel_shape=[1, 1], pads=[0, 0, 0, 0]),
        ],
        "quantised",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [None, None, None, 3])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.float32(1.5), "step"),
            numpy_helper.from_array(np.int8(0), "zero"),
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(scales, "scales"),
            numpy_helper.from_array(zeros, "zeros"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    image = random.integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    computed = run_exactly(model, image, ["levels", "back", "result"])
    expected = by_reference(model, image)
    assert computed["levels"].dtype == np.int8
    assert computed["levels"].max() == 127 or image.max() < 190
    for name, value in computed.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_whole_graph(small_checkpoint, image, precision):
    model = build_onnx(deploy(load_checkpoint(small_checkpoint)), 2)
    if precision != "fp32":
        model = to_half(model, precision)
    images = np.stack([image[:20, :24], image[20:40, 30:54]])
    computed = run_exactly(model, images, None)
    expected = by_reference(model, images)
    assert set(computed) == {node.output[0] for node in model.graph.node}
    for name, value in computed.items():
        assert value.shape == expected[name].shape
        size = np.abs(expected[name].astype(np.float32)).max()
        limit = (2e-3 if precision == "fp16" else 1e-5) * max(size, 1e-3)
        if name in ("rounded", "interleaved", "upscaled"):
            limit = 1
        assert np.abs(value.astype(np.float32) - expected[name].astype(np.float32)).max() <= limit, name


def test_numbers_beyond_fp16_become_infinite_as_they_would(small_checkpoint, image):
    model = build_onnx(deploy(load_checkpoint(small_checkpoint)), 2)
    for constant in model.graph.initializer:
        if constant.name == "entry.weight":
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * 1e6, constant.name))
    entry = run_exactly(to_half(model, "fp16"), image[None], ["entry"])["entry"]
    assert np.isinf(entry).any()


def test_unknown_operators_are_named():
    graph = helper.make_graph(
        [helper.make_node("Erf", ["image"], ["y"], name="strange")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(NotImplementedError, match="strange: the operator Erf"):
        run_exactly(onnx.helper.make_model(graph), np.zeros((1, 2, 2, 3), np.uint8))
