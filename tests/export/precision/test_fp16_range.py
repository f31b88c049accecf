import numpy as np

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.fp16_range import nodes_beyond_half
from overnet.export.precision.half import must_stay, to_half
from overnet.export.verify.comparison import drawn_images
from overnet.export.verify.declared_types import run_exactly
from overnet.network.deploy import deploy
from tests.export.graph.test_network_graph import random_model
from tests.export.verify.test_divergence import spoiled


def test_an_ordinary_network_needs_nothing():
    assert nodes_beyond_half(build_onnx(deploy(random_model(overscale=3)), 2), drawn_images()) == {}


def test_layers_near_the_ranges_end_are_found_and_then_all_is_finite():
    """The expansion is made large and its reduction takes that back: the same image, huge numbers between."""
    graph = build_onnx(deploy(random_model(overscale=3)), 2)
    images = drawn_images()
    activations = run_exactly(graph, images[0][None], ["group.0.block.0.expand.0"])["group.0.block.0.expand.0"]
    factor = 1e5 / np.abs(activations).max()
    for part in ("weight", "bias"):
        graph = spoiled(graph, f"group.0.block.0.expand.0.{part}", factor)
    graph = spoiled(graph, "group.0.block.0.reduce.0.weight", 1 / factor)
    beyond = nodes_beyond_half(graph, images)
    assert set(beyond) >= {"group.0.block.0.expand.0", "group.0.block.0.expand.0.relu", "group.0.block.0.reduce.0"}
    assert len(beyond) <= 4
    assert max(beyond.values()) >= 1e5
    for keep, finite in ((set(), False), (set(beyond), True)):
        results = run_exactly(to_half(graph, "fp16", keep=keep), images[0][None], None)
        assert all(np.isfinite(value).all() for value in results.values()) == finite
    exact = run_exactly(graph, images[0][None], ["shuffled"])["shuffled"]
    assert np.abs(results["shuffled"] - exact).max() < 1


def test_a_weight_beyond_the_range_is_found():
    graph = spoiled(build_onnx(deploy(random_model(overscale=3)), 2), "fusion.share.0.weight", 1e7)
    beyond = nodes_beyond_half(graph, drawn_images()[:1])
    assert beyond["fusion.share.0"] > 65504
    to_half(graph, "fp16", keep=set(beyond))


def test_what_stays_anyway_does_no_harm():
    graph = build_onnx(deploy(random_model(overscale=3)), 2)
    (added,) = [node for node in graph.graph.node if node.name == "added"]
    assert must_stay(added)
    assert to_half(graph, "fp16", keep={"added"}) == to_half(graph, "fp16")
