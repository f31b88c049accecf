"""The bounds of docs/jetson.md."""

import pytest

from overnet.benchmarks.studies.jetson_bounds import JETSONS, SIZES, Frame, Jetson, frame_of, tables
from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import build_onnx
from overnet.network.deploy import deploy
from overnet.network.plain import PlainNet, PlainNetConfig
from overnet.weights import MODEL_NAMES
from tests.conftest import ROOT


def test_the_document_has_the_commands_tables():
    text = (ROOT / "docs/jetson.md").read_text(encoding="utf-8")
    _, found = text.split("<!-- bounds: begin -->")
    assert found.split("<!-- bounds: end -->")[0].strip() == tables()


def test_every_module_model_and_size_has_a_bound():
    work, bounds = tables().split("\n\n")
    assert len(work.splitlines()) == 2 + len(MODEL_NAMES)
    lines = bounds.splitlines()
    assert len(lines) == 2 + len(JETSONS) * len(MODEL_NAMES)
    assert all(line.count("|") == 2 + len(SIZES) for line in lines)


def test_a_bound_is_the_lower_of_arithmetic_and_memory():
    frame = Frame(operations=2e12, fp16_bytes=1e9, int8_bytes=0.5e9)
    assert frame.bound(Jetson("slow arithmetic", 10, 20, 100), "fp16") == (5, "a")
    assert frame.bound(Jetson("slow arithmetic", 10, 20, 100), "int8") == (10, "a")
    assert frame.bound(Jetson("slow memory", 1000, 2000, 100), "fp16") == (100, "m")
    assert frame.bound(Jetson("slow memory", 1000, 2000, 100), "int8") == (200, "m")


def test_a_frame_counted_by_hand():
    """A 3x3 convolution from 3 to 4 channels, one from 4 to 4, the head to 12, and the repeated image to 12."""
    costs = count_costs(build_onnx(deploy(PlainNet(PlainNetConfig(width=4, depth=1))), 2))
    numbers = (3 + 4) + (4 + 4) + (4 + 12) + (3 + 12)
    assert costs.convolution_elements_per_pixel == numbers
    frame = frame_of(costs, 100, 10)
    assert frame.operations == pytest.approx(2 * 1000 * (9 * (3 * 4 + 4 * 4 + 4 * 12) + 12))
    assert (frame.fp16_bytes, frame.int8_bytes) == (1000 * (2 * numbers + 15), 1000 * (numbers + 15))
