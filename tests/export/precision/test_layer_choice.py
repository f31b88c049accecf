from itertools import product

import numpy as np
import pytest

from overnet.errors import InputError
from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.calibration import Pair, pairs_of
from overnet.export.precision.half import to_half
from overnet.export.precision.layer_choice import choose_layers
from overnet.export.precision.quantizer import candidates, largest_inputs
from overnet.export.verify.comparison import drawn_images
from overnet.export.verify.declared_types import run_exactly
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.metrics import psnr_luma
from overnet.imaging.sample_images import centre_crop, sample_photographs
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy
from overnet.weights import bundled_checkpoint
from tests.export.verify.test_divergence import spoiled

BAD = {f"tail.phase.{row}.{column}.mix" for row, column in product(range(3), range(3))}


def silent(*_):
    pass


@pytest.fixture(scope="module")
def exact(small_checkpoint):
    """A network but for one channel that is made huge and taken back: all others vanish between its INT8 levels."""
    graph = build_onnx(deploy(load_checkpoint(small_checkpoint)), 2)
    for row, column, part in product(range(3), range(3), ("weight", "bias")):
        graph = spoiled(graph, f"tail.phase.{row}.{column}.overscale.{part}", 1e3, index=0)
    return spoiled(graph, "tail.mix.weight", 1e-3, index=np.s_[:, 0])


@pytest.fixture(scope="module")
def pairs(exact):
    """What the network makes, with a little noise, is the ground truth: a loss shows whatever a random network
    computes."""
    random = np.random.default_rng(0)
    pairs = []
    for low in (centre_crop(image, 32) for image in drawn_images()[-3:]):
        high = run_exactly(exact, low[None])[OUTPUT_NAME][0]
        noise = random.normal(0, 4, high.shape)
        pairs.append(Pair(low, np.clip(high + noise, 0, 255).round().astype(np.uint8)))
    return pairs


def choose(exact, pairs, max_loss_db):
    largest = largest_inputs(exact, [pair.low for pair in pairs])
    return choose_layers(exact, largest, pairs, 2, max_loss_db=max_loss_db, progress=silent)


def test_all_layers_where_the_loss_does_not_matter(exact, pairs):
    choice = choose(exact, pairs, 100)
    assert list(choice.quantized) == candidates(exact) and choice.kept == {}
    assert 0.5 < choice.share <= 1


def test_the_layer_that_harms_stays_and_the_loss_is_what_it_says(exact, pairs):
    everything = choose(exact, pairs, 100).loss_db
    limit_db = everything / 4
    choice = choose(exact, pairs, limit_db)
    assert choice.kept and set(choice.kept) <= BAD
    assert next(iter(choice.kept.values())) == max(choice.kept.values())
    assert set(choice.quantized) | set(choice.kept) == set(candidates(exact))
    assert choice.loss_db <= limit_db
    lowered = to_half(choice.model, "fp16")
    errors = [
        np.mean(
            [10 ** (-psnr_luma(p.high, run_exactly(graph, p.low[None])[OUTPUT_NAME][0], border=2) / 10) for p in pairs]
        )
        for graph in (exact, lowered)
    ]
    assert choice.loss_db == pytest.approx(10 * np.log10(errors[1] / errors[0]), abs=1e-6)
    costs = count_costs(exact)
    share = sum(costs.by_layer[name] for name in choice.quantized) / sum(costs.by_layer.values())
    assert choice.share == pytest.approx(share)


def test_where_nothing_fits_it_says_so(exact, pairs):
    with pytest.raises(InputError, match=r"no layer can be INT8 within a loss of -50 dB .*fp16 is the lowest"):
        choose(exact, pairs, -50)


def test_layers_that_compute_in_fp32_are_let_alone(exact, pairs):
    largest = largest_inputs(exact, [pair.low for pair in pairs])
    choice = choose_layers(exact, largest, pairs, 2, max_loss_db=100, keep=frozenset(BAD), progress=silent)
    assert not BAD & set(choice.quantized) and choice.kept == {}


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "beside others"])
@pytest.mark.parametrize("colour", [0, 255, (200, 30, 90)], ids=["black", "white", "one colour"])
def test_images_of_one_colour(colour, others):
    """Their error may be 0, and the PSNR infinite: squared errors are averaged."""
    exact = build_onnx(deploy(load_checkpoint(bundled_checkpoint("realtime"))), 2)
    images = [np.full((96, 96, 3), colour, np.uint8), *sample_photographs()[:others]]
    choice = choose(exact, pairs_of([centre_crop(image, 96) for image in images], 2), 0.01)
    assert np.isfinite(choice.loss_db) and choice.loss_db <= 0.01
    assert all(np.isfinite(loss) for loss in choice.kept.values())
