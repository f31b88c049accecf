import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.half import to_half
from overnet.export.verify.declared_types import run_exactly
from overnet.export.verify.divergence import first_divergence, network_tensors, signal_to_noise_db
from overnet.network.deploy import deploy
from tests.export.graph.test_network_graph import random_model


def spoiled(model, name, factor, index=...):
    """The same graph with one constant, or a part of it, multiplied."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    (constant,) = [constant for constant in copy.graph.initializer if constant.name == name]
    values = numpy_helper.to_array(constant).copy()
    values[index] *= np.float32(factor)
    constant.CopyFrom(numpy_helper.from_array(values, name))
    return copy


@pytest.mark.parametrize(("overscale", "scale", "form"), [(3, 2, "default"), (5, 3, "lean-memory"), (4, 2, "default")])
def test_the_networks_tensors_are_those_of_the_graph(image, overscale, scale, form):
    network = random_model(overscale=overscale)
    graph = build_onnx(deploy(network), scale, form=form)
    expected = network_tensors(network, image, scale)
    computed = run_exactly(graph, image[None], None)
    common = [name for name in expected if name in computed and computed[name].shape == expected[name].shape]
    # Two groups of two blocks, two local and one global reduction a group, entry, fusion, skip, the phases, the result.
    phases = 0 if overscale == 4 else overscale**2
    assert len(common) == 2 * (4 + 2 + 1) + 3 + phases + 1
    for name in common:
        assert signal_to_noise_db(expected[name], computed[name]) > 80, name


@pytest.mark.parametrize(
    ("constant", "named"),
    [
        ("group.1.block.0.spatial.weight", "group.1.block.0.spatial (Conv)"),
        ("group.0.block.1.reduce.0.weight", "group.0.block.1.spatial (Conv)"),
        ("fusion.share.0.weight", "fusion.relu (Relu)"),
        ("tail.phase.1.2.overscale.weight", "tail.phase.1.2.overscale.relu (Relu)"),
    ],
)
def test_a_wrong_weight_is_found(image, constant, named):
    network = random_model(overscale=3)
    graph = spoiled(build_onnx(deploy(network), 2), constant, 1.1)
    expected = network_tensors(network, image, 2)
    found = first_divergence(graph, image[None], expected, least_signal_to_noise_db=60)
    assert found.startswith(f"the first to diverge is {named}")


def test_an_overflow_is_found(image):
    graph = spoiled(build_onnx(deploy(random_model(overscale=3)), 2), "entry.weight", 1e6)
    half = to_half(graph, "fp16")
    expected = run_exactly(graph, image[None], None)
    found = first_divergence(half, image[None], expected, least_signal_to_noise_db=30)
    assert found == "entry (Conv) is the first with numbers that are infinite or undefined"


def test_without_a_divergence_the_farthest_is_named(image):
    graph = build_onnx(deploy(random_model(overscale=3)), 2)
    expected = run_exactly(graph, image[None], None)
    found = first_divergence(to_half(graph, "bf16"), image[None], expected, least_signal_to_noise_db=-50)
    assert found.startswith("the farthest is ")


def test_signal_to_noise():
    ones = np.ones((2, 3), np.float32)
    assert signal_to_noise_db(ones, ones) == np.inf
    assert signal_to_noise_db(ones, ones * np.float32(1.1)) == pytest.approx(20, abs=1e-4)
    assert signal_to_noise_db(0 * ones, ones) == -np.inf
