"""Plain networks in INT8: what scaling the channels to one range, and the choice of ranges, leave of the quality."""

import functools

import numpy as np
import pytest

from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.calibration import pairs_of
from overnet.export.precision.int8 import Calibration, equalized
from overnet.export.precision.quantizer import candidates
from overnet.export.verify.declared_types import run_exactly
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.metrics import psnr, psnr_luma
from overnet.imaging.sample_images import sample_photographs, synthetic_frames
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy
from overnet.network.plain import LARGEST_CHANNEL_FACTOR
from overnet.weights import bundled_checkpoint
from tests.export.graph.test_plain_network import plain_net
from tests.support.lowered import lowered


def run(graph, image):
    return run_exactly(graph, image[None])[OUTPUT_NAME][0]


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_the_network_stays_and_all_channels_have_one_range(activation):
    network, images = deploy(plain_net(activation)), sample_photographs()[:2]
    graph = build_onnx(network, 3)
    scaled = build_onnx(equalized(network, graph, images), 3)
    for image in images:
        assert np.abs(run(graph, image).astype(int) - run(scaled, image)).max() <= 1
    names = [node.output[0] for node in graph.graph.node if node.op_type in ("Relu", "PRelu")]
    assert len(names) == 4
    for name in names:
        before, after = (
            np.max([np.abs(run_exactly(each, i[None], [name])[name]).max((0, 2, 3)) for i in images], axis=0)
            for each in (graph, scaled)
        )
        used = before > before.max() / LARGEST_CHANNEL_FACTOR
        assert after[used] == pytest.approx(before.max(), rel=1e-4)
        assert np.all(after[~used] < before.max())


@functools.cache
def in_int8(name):
    """Return a bundled model at x2 in INT8 as it is exported, with every layer in INT8, and in FP32."""
    calibration = Calibration(sample_photographs(), [], max_loss_db=100)
    made = lowered(load_checkpoint(bundled_checkpoint(name)), 2, "int8", synthetic_frames(), calibration)
    quantized = {node.name for node in made.model.graph.node if node.op_type == "DequantizeLinear"}
    assert len([name for name in quantized if "weight" in name]) == len(candidates(made.exact))
    return made.model, made.exact


@pytest.mark.parametrize(("name", "most_db"), [("realtime", 0.4), ("fast", 0.5)])
def test_all_layers_in_int8_cost_little(name, most_db):
    """Ranges for noise and checkerboards of single pixels, and one step for unequal channels, cost 1.7 to 2.6 dB."""
    errors = [
        np.mean(
            [10 ** (-psnr_luma(p.high, run(graph, p.low), border=2) / 10) for p in pairs_of(sample_photographs(), 2)]
        )
        for graph in in_int8(name)
    ]
    assert 10 * np.log10(errors[0] / errors[1]) < most_db


@pytest.mark.parametrize("name", ["realtime", "fast"])
def test_synthetic_frames_hold(name):
    model, exact = in_int8(name)
    text, *flat = synthetic_frames()
    assert psnr(run(exact, text), run(model, text), border=0) > 40
    for frame in flat:
        # One colour remains one, nearly the same: a large area would show a tint or a pattern.
        inside = run(model, frame)[16:-16, 16:-16].astype(int)
        assert np.abs(inside - np.median(frame, axis=(0, 1)).astype(int)).max() <= 2
        assert np.abs(run(exact, frame).astype(int) - run(model, frame)).max() <= 8
